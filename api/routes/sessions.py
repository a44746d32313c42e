"""Sessions over REST."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic_core import to_json

from api.changes import wait
from api.deps import Parts, Who, With
from api.schemas import CreateSession
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import Cancel
from moorage.db import project_reference, sessions, submit
from moorage.db.usage import kept
from moorage.domain.errors import Conflict, InvalidRequest
from moorage.domain.session import TERMINAL, Reason, SessionStatus
from moorage.domain.usage import summary

router = APIRouter(prefix="/session", tags=["sessions"])
_log = log.get("api")
# A notification lost with its connection is made up for after so long.
_LOOK_AGAIN_S = 2.0
_KEY_LENGTH = 200


@router.post("", status_code=201, summary="Submit a session")
async def create(
    wish: CreateSession, who: Who, parts: With, idempotency_key: Annotated[str | None, Header()] = None
) -> Response:
    """Answers at once with the PENDING session. With an Idempotency-Key, the same request makes one session only."""
    if idempotency_key is not None and not 0 < len(idempotency_key) <= _KEY_LENGTH:
        raise InvalidRequest(f"Idempotency-Key has {len(idempotency_key)} characters; 1 to {_KEY_LENGTH} are allowed")
    # Keyed: who has the database alone can't try out what a weak value in `env` may have been.
    key = parts.settings.dataplane_key.encode()
    digest = hmac.new(key, wish.model_dump_json().encode(), "sha256").hexdigest() if idempotency_key else None
    new = wish.checked(idempotency_key=idempotency_key, idempotency_hash=digest)
    who = project_reference.chosen(who, wish.project)
    row, made = await submit.insert(parts.engine, parts.seal, who, new)
    if made:
        _begin(parts, row)
    return JSONResponse(shown(row, parts), 201)


@router.get("", summary="List sessions, newest first")
async def index(
    who: Who,
    parts: With,
    status: str = "",
    name: str | None = None,
    all: bool = False,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """Live ones; with `all=true` ended ones too. `status` is a comma list."""
    items, total = await sessions.page(
        parts.engine, who, statuses=statuses_of(status), include_ended=all, name=name, limit=limit, offset=offset
    )
    return _Json({"items": [shown(row, parts) for row in items], "total": total, "limit": limit, "offset": offset})


@router.get("/{ref}", summary="One session, by id, name or id prefix")
async def show(
    ref: str,
    who: Who,
    parts: With,
    wait_from: str | None = None,
    wait_s: Annotated[float, Query(ge=0, le=60)] = 10,
) -> Response:
    """With `wait_from=STATUS`, answers when the status is another one, or after `wait_s` seconds."""
    row = await sessions.find(parts.engine, who, ref)
    if wait_from is not None:
        row = await changed(parts, row, wait_from, wait_s)
        if row["status"] in TERMINAL:
            row = await sessions.find(parts.engine, who, str(row["id"]))
    return _Json(shown(row, parts))


@router.delete("/{ref}", status_code=202, summary="Stop a session")
async def stop(ref: str, who: Who, parts: With, forced: bool = False) -> Response:
    """Asks for the end: a stop signal, the grace period, then a kill; `forced` kills at once."""
    row = await sessions.find(parts.engine, who, ref, "session:delete")
    if row["status"] in TERMINAL:
        raise Conflict(
            f"session {row['name']} is {row['status']} since {row['terminated_at']:%Y-%m-%d %H:%M:%S}"
            f" ({row['reason']})",
            code="session-ended",
        )
    reason = Reason.FORCE_TERMINATED if forced else Reason.USER_REQUESTED
    await sessions.record_asked(parts.engine, who, "session:delete", str(row["id"]), after={"forced": forced})
    await parts.lives.cancel(row, Cancel(reason, who.named, forced))
    return JSONResponse(shown(row, parts), 202)


@router.get("/{ref}/events", summary="The timeline of a session")
async def events(ref: str, who: Who, parts: With) -> Response:
    row = await sessions.find(parts.engine, who, ref)
    found = await sessions.events(parts.engine, str(row["id"]))
    return JSONResponse({"items": [{**event, "at": event["at"].isoformat()} for event in found]})


class _Json(JSONResponse):
    """The same JSON in half the time."""

    def render(self, content: Any) -> bytes:
        return to_json(content)


def statuses_of(words: str) -> list[str]:
    """The statuses in a comma list."""
    statuses = [part.strip().upper() for part in words.split(",") if part.strip()]
    unknown = [one for one in statuses if one not in SessionStatus.__members__]
    if unknown:
        raise InvalidRequest(f"unknown status {unknown[0][:40]!r}; allowed are {', '.join(SessionStatus)}")
    return statuses


def shown(row: Mapping[str, Any], parts: Parts) -> dict[str, Any]:
    """A session as clients see it; its environment is never shown."""
    ui, namespace = parts.settings.temporal_ui_url.rstrip("/"), parts.settings.temporal_namespace
    session_id = str(row["id"])
    plain: dict[str, Any] = {**row, "id": session_id}
    plain.pop("idempotency_hash", None)
    if "usage" in plain:
        plain["usage"] = summary(kept(plain["usage"]), plain["slots"])
    for moment in _MOMENTS:
        if plain[moment] is not None:
            plain[moment] = plain[moment].isoformat()
    workflow = names.session_workflow(session_id)
    plain["links"] = {"temporal": f"{ui}/namespaces/{namespace}/workflows/{workflow}" if ui else None}
    return plain


_MOMENTS = ("created_at", "status_changed", "started_at", "terminated_at", "not_before", "kept_until")


def _begin(parts: Parts, row: Mapping[str, Any]) -> None:
    """Starts the workflow beside the answer. If it fails, the scheduler's `assigned` or the reaper starts it."""

    async def begin() -> None:
        try:
            await parts.lives.begin(row)
        except Exception as error:
            _log.warning("workflow not started yet", session=str(row["id"]), error=str(error)[:200])

    task = asyncio.create_task(begin())
    parts.tasks.add(task)
    task.add_done_callback(parts.tasks.discard)


async def changed(parts: Parts, row: Mapping[str, Any], status: str, wait_s: float) -> Mapping[str, Any]:
    """The session once its status is another one, or as it is after so long."""
    session_id, deadline = str(row["id"]), time.monotonic() + wait_s
    event = parts.changes.subscribe(session_id)
    try:
        while True:
            found = await sessions.by_id(parts.engine, session_id)
            left = deadline - time.monotonic()
            if found is None or found["status"] != status or left <= 0:
                return found or row
            await wait(event, min(left, _LOOK_AGAIN_S))
    finally:
        parts.changes.unsubscribe(session_id, event)
