"""The gateway's side of the nodes' data planes: where a kernel is, and asking its node with a token for just that."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from api.deps import Parts
from moorage.contracts.dataplane import FRAME_BYTES, PING_S, UNANSWERED_S, issue_token
from moorage.db import sessions
from moorage.db.sessions import KernelPlace
from moorage.domain.errors import (
    Conflict,
    InvalidRequest,
    MoorageError,
    NotFound,
    TooManyRequests,
    Unavailable,
)
from moorage.domain.session import SessionStatus

_KERNEL = re.compile(r"(main|sub)(\d{1,5})")
_OPENED_WITHIN_S = 10.0
_KINDS: Mapping[int, type[MoorageError]] = {400: InvalidRequest, 404: NotFound, 409: Conflict, 429: TooManyRequests}
# A stream may be silent for ever; what is sent waits for whoever takes it.
_STREAM = httpx.Timeout(_OPENED_WITHIN_S, read=None, write=None)
Params = Sequence[tuple[str, str]]


class Node:
    """The node that has one kernel of a session, or had it last."""

    def __init__(self, parts: Parts, row: Mapping[str, Any], place: KernelPlace) -> None:
        self._parts, self._session_id = parts, str(row["id"])
        self.place = place

    async def ask(
        self,
        method: str,
        path: str,
        action: str,
        *,
        params: Params = (),
        body: object = None,
        timeout_s: float = 30,
    ) -> httpx.Response:
        """For an answer that is small. Unavailable without one; else the node's own refusal."""
        try:
            answer = await self._parts.nodes.request(
                method,
                self._url(self.place.address, path),
                params=list(params),
                json=body,
                headers=self._token(action),
                timeout=timeout_s,
            )
        except httpx.HTTPError:
            raise self._no_answer() from None
        _check(answer)
        return answer

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, action: str, *, params: Params = (), content: AsyncIterator[bytes] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """An answer that comes piece by piece, at the pace of whoever reads it."""
        request = self._parts.streams.build_request(
            method,
            self._url(self.place.address, path),
            params=list(params),
            content=content,
            headers=self._token(action),
            timeout=_STREAM,
        )
        try:
            answer = await self._parts.streams.send(request, stream=True)
        except httpx.HTTPError:
            raise self._no_answer() from None
        try:
            if answer.is_error:
                await answer.aread()
                _check(answer)
            yield answer
        finally:
            await answer.aclose()

    @asynccontextmanager
    async def websocket(
        self, path: str, action: str, *, params: Params = (), suffix: str = ""
    ) -> AsyncIterator[ClientConnection]:
        address = re.sub("^http", "ws", self.place.address)
        try:
            connection = await connect(
                f"{self._url(address, path)}{suffix}?{urlencode(params)}",
                additional_headers=self._token(action),
                user_agent_header=None,
                compression=None,
                proxy=None,
                max_size=FRAME_BYTES,
                max_queue=4,
                open_timeout=_OPENED_WITHIN_S,
                close_timeout=2.0,
                ping_interval=PING_S,
                ping_timeout=UNANSWERED_S,
            )
        except InvalidStatus as refusal:
            found = httpx.Response(refusal.response.status_code, content=bytes(refusal.response.body or b""))
            raise _refusal(found) from None
        except (WebSocketException, OSError, TimeoutError):
            raise self._no_answer() from None
        try:
            yield connection
        finally:
            await connection.close()

    def _url(self, address: str, path: str) -> str:
        return f"{address}/{path}/{self._session_id}/{self.place.kernel_id}"

    def _token(self, action: str) -> dict[str, str]:
        token = issue_token(
            self._parts.settings.dataplane_key,
            agent_id=self.place.agent_id,
            kernel_id=self.place.kernel_id,
            action=action,
            session_id=self._session_id,
        )
        return {"Authorization": f"Bearer {token}"}

    def _no_answer(self) -> Unavailable:
        return Unavailable(f"node {self.place.agent_id} ({self.place.agent_status}) does not answer; try again")


async def node_of(parts: Parts, row: Mapping[str, Any], kernel: str) -> Node | None:
    """None if the kernel never had a node."""
    match = _KERNEL.fullmatch(kernel)
    if match is None:
        raise InvalidRequest(f"kernel {kernel[:40]!r} is none; they are called main1, sub1, sub2 and so on")
    found = await sessions.kernel_place(parts.engine, str(row["id"]), match[1], int(match[2]))
    if found is None:
        size = row["cluster_size"]
        raise NotFound(
            f"session {row['name']} has no kernel {kernel}; it has {size}",
            code="kernel-not-found",
            hint="they are called main1, sub1, sub2 and so on",
        )
    return Node(parts, row, found) if found.agent_id else None


async def running_node(parts: Parts, row: Mapping[str, Any], kernel: str, what: str) -> Node:
    node = await node_of(parts, row, kernel)
    if row["status"] != SessionStatus.RUNNING or node is None:
        words = f"session {row['name']} is {row['status']}; {what} needs RUNNING"
        raise Conflict(words, code="session-not-running")
    return node


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        raise _refusal(answer)


def _refusal(answer: httpx.Response) -> MoorageError:
    try:
        problem = json.loads(answer.content)
        words, code, hint = str(problem["title"]), str(problem["code"]), str(problem.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        words, code, hint = f"the node answered {answer.status_code}", "node-refused", ""
    if answer.status_code in (401, 503):  # a key or a Docker that is wrong there: nothing the asker did
        return Unavailable(f"the node can't: {words}")
    return _KINDS.get(answer.status_code, Conflict)(words, code=code, hint=hint)
