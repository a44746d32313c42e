"""What is asked of a session that runs: other resources, a new start in its place, an image of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Parts, Who, With
from api.lives import NotYetAnswered
from api.routes.sessions import shown
from api.running_schemas import CommitSession, ResizeSession
from moorage.contracts.activities import UPDATE_REFUSED, Answer, Commit, Resize, Restart
from moorage.db import sessions
from moorage.domain.committed import committed_name
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError, Unsatisfiable
from moorage.domain.resources import check_amounts, parse_slots
from moorage.domain.session import SessionStatus
from moorage.domain.tenancy import Principal

router = APIRouter(prefix="/session", tags=["sessions"])
# All that a container has written is packed into a layer.
_COMMIT_S = 600.0
_AS: dict[str, type[MoorageError]] = {
    "unsatisfiable": Unsatisfiable,
    "malformed-size": InvalidRequest,
    "unknown-slot": InvalidRequest,
    "exclusive-slots": InvalidRequest,
}
_HINTS = {UPDATE_REFUSED: "its node refused it, and it goes on as before; ask for other amounts"}


@router.post("/{ref}/resize", summary="Give a running session other resources")
async def resize(ref: str, wish: ResizeSession, who: Who, parts: With) -> Response:
    """Cores and memory while it runs, accelerators by a restart in its place (the answer says `restarted`).

    Refused with what is possible, where its node has no room; with `move` it starts anew elsewhere instead. 202: it
    is under way, and the session's status and timeline tell how it ends.
    """
    row = await _running(parts, who, ref, "session:update", "a resize")
    slots = {name: amount for name, amount in {**row["slots"], **parse_slots(wish.resources)}.items() if amount}
    check_amounts(slots)
    if slots == row["slots"]:
        return JSONResponse(shown(row, parts))
    await sessions.record_asked(
        parts.engine, who, "session:update", str(row["id"]), after={"slots": slots, "move": wish.move}
    )
    return await _asked(parts, row, "resize", Resize(slots, who.named, wish.move))


@router.post("/{ref}/restart", summary="Restart a session in its place")
async def restart(ref: str, who: Who, parts: With) -> Response:
    """New containers on the same nodes, with the same resources and the next attempt. 202 as for a resize."""
    row = await _running(parts, who, ref, "session:update", "a restart")
    await sessions.record_asked(parts.engine, who, "session:update", str(row["id"]), after={"restart": True})
    return await _asked(parts, row, "restart", Restart(who.named))


@router.patch("/{ref}", summary="The same, as Backend.AI's clients ask it")
async def restart_as_backendai(ref: str, who: Who, parts: With) -> Response:
    return await restart(ref, who, parts)


@router.post("/{ref}/commit", summary="Make an image of a running session")
async def commit(ref: str, wish: CommitSession, who: Who, parts: With) -> Response:
    """Of its main container, which goes on; on that node alone. Its variables and secrets are not in it.

    Answers when it is made, or after ten minutes 202: then it is made all the same.
    """
    image = committed_name(wish.image)
    row = await _running(parts, who, ref, "session:commit", "a commit")
    await sessions.record_asked(parts.engine, who, "session:commit", str(row["id"]), after={"image": image})
    try:
        answer = await parts.lives.ask(row, "commit", Commit(image, who.named), within_s=_COMMIT_S)
    except NotYetAnswered:
        return JSONResponse({"image": image, "agent": row["agent"], "answered": False}, 202)
    return JSONResponse(_data(answer))


async def _running(parts: Parts, who: Principal, ref: str, permission: str, what: str) -> Mapping[str, Any]:
    row = await sessions.find(parts.engine, who, ref, permission)
    if row["status"] != SessionStatus.RUNNING:
        raise Conflict(
            f"session {row['name']} is {row['status']}; {what} needs RUNNING",
            code="session-not-running",
            hint=f"moor show {row['name']} tells what it waits for",
        )
    return row


async def _asked(parts: Parts, row: Mapping[str, Any], update: str, wish: object) -> Response:
    """The session afterwards, with what the answer says of the change."""
    try:
        data = _data(await parts.lives.ask(row, update, wish))
    except NotYetAnswered:
        data = {"answered": False}
    now = await sessions.by_id(parts.engine, str(row["id"])) or row
    told = {name: data[name] for name in ("restarted", "moved", "answered") if name in data}
    return JSONResponse({**shown(now, parts), **told}, 200 if data.get("answered", True) else 202)


def _data(answer: Answer) -> dict[str, Any]:
    if answer.done:
        return answer.data
    kind = _AS.get(answer.code, Conflict)
    hint = answer.hint or _HINTS.get(answer.code, "")
    raise kind(answer.message, code=answer.code or "conflict", hint=hint, data=answer.data)
