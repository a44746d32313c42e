"""What sessions wrote, over REST."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Header, Query, Response

from api.deps import Parts, Who, With
from api.nodes import Node, node_of
from api.routes.sessions import changed
from api.schemas import parse_past
from api.streamed import Streamed, with_silences
from moorage.db import sessions
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError, NotFound
from moorage.domain.log_lines import Lines, Position, parse_position, stamp_at
from moorage.domain.session import SessionStatus

router = APIRouter(prefix="/session", tags=["sessions"])
_KEEP_ALIVE_S = 15.0
_BEFORE_IT_RUNS = (
    SessionStatus.PENDING,
    SessionStatus.SCHEDULED,
    SessionStatus.PREPARING,
    SessionStatus.CREATING,
)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """`after` goes before `since` and `tail`: whoever comes back has had all that was before it."""

    kernel: str
    since: str
    tail: int | None
    attempt: int | None
    stamps: bool
    after: Position | None

    def params(self, *, follow: bool) -> list[tuple[str, str]]:
        since = self.after.stamp if self.after else self.since
        tail = None if self.after else self.tail
        found = [("stamps", "1"), *([("follow", "1")] if follow else ()), *([("since", since)] if since else ())]
        found += [("tail", str(tail))] if tail is not None else []
        return found + ([("attempt", str(self.attempt))] if self.attempt is not None else [])

    def lines(self) -> Lines:
        return Lines(stamps=self.stamps, after=self.after)


@router.get(
    "/{ref}/logs",
    summary="What a session wrote",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}, "text/event-stream": {}}}},
)
async def logs(
    ref: str,
    who: Who,
    parts: With,
    follow: bool = False,
    tail: Annotated[int | None, Query(ge=0, le=10_000_000)] = None,
    since: str = "",
    timestamps: bool = False,
    kernel: str = "main1",
    attempt: Annotated[int | None, Query(ge=0, le=1_000_000)] = None,
    last_event_id: Annotated[str, Header()] = "",
) -> Response:
    """Plain text; with `follow=true` server-sent events `log` {"text"} until `end`. `tail` keeps the last lines,
    `since` those from a time on. With `Last-Event-ID` events go on behind that one."""
    row = await sessions.find(parts.engine, who, ref, "session:logs")
    from_on = stamp_at(parse_past("since", since).timestamp()) if since else ""
    wanted = _Wanted(kernel, from_on, tail, attempt, timestamps, _position(last_event_id))
    node = await node_of(parts, row, kernel)
    if follow:
        return Streamed(_events(parts, row, wanted), media_type="text/event-stream")
    if node is None:
        raise Conflict(f"session {row['name']} is {row['status']} and has not run", code="no-logs")
    closing = AsyncExitStack()
    answer = await _opened(node, closing, row, wanted, follow=False)
    return Streamed(_text(answer, closing, wanted), media_type="text/plain; charset=utf-8")


async def _opened(
    node: Node, closing: AsyncExitStack, row: Mapping[str, Any], wanted: _Wanted, *, follow: bool
) -> httpx.Response:
    try:
        return await closing.enter_async_context(
            node.stream("GET", "logs", "logs", params=wanted.params(follow=follow))
        )
    except NotFound:
        which = "" if wanted.attempt is None else f" of attempt {wanted.attempt}"
        words = f"node {node.place.agent_id} has no log{which} of session {row['name']}"
        raise NotFound(words, code="no-logs") from None


async def _text(answer: httpx.Response, closing: AsyncExitStack, wanted: _Wanted) -> AsyncGenerator[bytes, None]:
    async with closing:
        lines = wanted.lines()
        async for piece in answer.aiter_raw():
            yield lines.feed(piece)
        yield lines.rest()


async def _events(parts: Parts, row: Mapping[str, Any], wanted: _Wanted) -> AsyncGenerator[str, None]:
    """Waits until it runs, then passes on what it writes, until it has ended."""
    while row["status"] in _BEFORE_IT_RUNS:
        yield ": keep-alive\n\n"
        row = await changed(parts, row, row["status"], _KEEP_ALIVE_S)
    node = await node_of(parts, row, wanted.kernel)
    try:
        async with AsyncExitStack() as closing:
            if node is not None:
                answer = await _opened(node, closing, row, wanted, follow=True)
                pieces = await closing.enter_async_context(aclosing(with_silences(answer.aiter_raw(), _KEEP_ALIVE_S)))
                async for event in _as_events(pieces, wanted.lines()):
                    yield event
    except NotFound:
        pass  # it ended without a word
    except (httpx.HTTPError, MoorageError) as error:
        words = error.message if isinstance(error, MoorageError) else "the node broke off"
        yield f"event: interrupted\ndata: {json.dumps({'msg': words})}\n\n"
        return
    yield "event: end\ndata: {}\n\n"


async def _as_events(pieces: AsyncGenerator[bytes, None], lines: Lines) -> AsyncGenerator[str, None]:
    """Each with its position as id; half a character waits for its other half."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    async for piece in pieces:
        if not piece:
            yield ": keep-alive\n\n"
        elif text := decoder.decode(lines.feed(piece)):
            at, held = lines.position, len(decoder.getstate()[0])
            name = f"id: {Position(at.stamp, at.offset - held)}\n" if at.stamp else ""
            yield f"{name}event: log\ndata: {json.dumps({'text': text})}\n\n"
    if text := decoder.decode(lines.rest(), final=True):
        yield f"event: log\ndata: {json.dumps({'text': text})}\n\n"


def _position(words: str) -> Position | None:
    position = parse_position(words) if words else None
    if words and position is None:
        raise InvalidRequest(f"Last-Event-ID is {words[:80]!r}; it must be the id of an event of this stream")
    return position
