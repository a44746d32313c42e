"""Sessions over REST."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Header, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic_core import to_json

from api.changes import wait
from api.deps import Parts, Who, With
from api.schemas import CreateSession, Exec
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import Cancel
from moorage.contracts.dataplane import issue_token
from moorage.db import project_reference, sessions, submit
from moorage.db.usage import kept
from moorage.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from moorage.domain.session import TERMINAL, Reason, SessionStatus
from moorage.domain.tenancy import Principal
from moorage.domain.usage import summary

router = APIRouter(prefix="/session", tags=["sessions"])
_log = log.get("api")
# A notification lost with its connection is made up for after so long.
_LOOK_AGAIN_S = 2.0
_KEEP_ALIVE_S = 15.0
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
        row = await _changed(parts, row, wait_from, wait_s)
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


@router.get(
    "/{ref}/logs",
    summary="What a session wrote",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "text/event-stream": {}}}},
)
async def logs(
    ref: str, who: Who, parts: With, follow: bool = False, tail: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """Plain text; with `follow=true` server-sent events `log` {"text"} until `end`. `tail` keeps the last lines."""
    row = await sessions.find(parts.engine, who, ref, "session:logs")
    if follow:
        return StreamingResponse(_follow(parts, who, row), media_type="text/event-stream")
    place = await sessions.main_kernel(parts.engine, str(row["id"]))
    if place is None:
        raise Conflict(f"session {row['name']} is {row['status']} and has not run", code="no-logs")
    content = await _from_node(parts, "GET", "logs", row, place)
    lines = content.content.splitlines(keepends=True)
    body = b"".join(lines[-tail:] if tail else ([] if tail == 0 else lines))
    return Response(body, media_type="text/plain; charset=utf-8")


@router.post("/{ref}/exec", summary="Run a command in a running session")
async def execute(ref: str, order: Exec, who: Who, parts: With) -> Response:
    """Answers when it has ended: exit_code, stdout and stderr (1 MiB each at most)."""
    row = await sessions.find(parts.engine, who, ref, "session:execute")
    place = await sessions.main_kernel(parts.engine, str(row["id"]))
    if row["status"] != SessionStatus.RUNNING or place is None:
        raise Conflict(f"session {row['name']} is {row['status']}; exec needs RUNNING", code="session-not-running")
    told = {"program": order.command[0][:80]}  # its arguments may hold secrets
    await sessions.record_asked(parts.engine, who, "session:execute", str(row["id"]), after=told)
    body = {"command": order.command, "timeout_s": order.timeout_s}
    answer = await _from_node(parts, "POST", "exec", row, place, body=body, timeout_s=order.timeout_s + 10)
    return JSONResponse(answer.json())


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


async def _changed(parts: Parts, row: Mapping[str, Any], status: str, wait_s: float) -> Mapping[str, Any]:
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


async def _follow(parts: Parts, who: Principal, row: Mapping[str, Any]) -> AsyncIterator[str]:
    """Waits until it runs, then passes on what it writes, until it has ended."""
    while row["status"] in (
        SessionStatus.PENDING,
        SessionStatus.SCHEDULED,
        SessionStatus.PREPARING,
        SessionStatus.CREATING,
    ):
        yield ": keep-alive\n\n"
        row = await _changed(parts, row, row["status"], _KEEP_ALIVE_S)
    place = await sessions.main_kernel(parts.engine, str(row["id"]))
    if place is not None:
        try:
            async with parts.nodes.stream(
                "GET",
                f"{place.address}/logs/{row['id']}/{place.kernel_id}",
                params={"follow": "1"},
                headers=_token(parts, place, "logs"),
                timeout=httpx.Timeout(10, read=None),
            ) as answer:
                if answer.status_code == 200:
                    async for chunk in answer.aiter_text():
                        yield f"event: log\ndata: {json.dumps({'text': chunk})}\n\n"
        except httpx.HTTPError:
            yield "event: interrupted\ndata: {}\n\n"
            return
    yield "event: end\ndata: {}\n\n"


async def _from_node(
    parts: Parts,
    method: str,
    action: str,
    row: Mapping[str, Any],
    place: sessions.KernelPlace,
    *,
    body: object = None,
    timeout_s: float = 30,
) -> httpx.Response:
    try:
        answer = await parts.nodes.request(
            method,
            f"{place.address}/{action}/{row['id']}/{place.kernel_id}",
            json=body,
            headers=_token(parts, place, action),
            timeout=timeout_s,
        )
    except httpx.HTTPError:
        raise Unavailable(f"node {place.agent_id} ({place.agent_status}) does not answer; try again") from None
    if answer.status_code == 404:
        raise NotFound(f"node {place.agent_id} has no log of session {row['name']}", code="no-logs")
    if answer.status_code != 200:
        problem = answer.json()
        raise Conflict(str(problem.get("title", "the node refused")), code=str(problem.get("code", "node-refused")))
    return answer


def _token(parts: Parts, place: sessions.KernelPlace, action: str) -> dict[str, str]:
    key = parts.settings.dataplane_key
    token = issue_token(key, agent_id=place.agent_id, kernel_id=place.kernel_id, action=action)
    return {"Authorization": f"Bearer {token}"}
