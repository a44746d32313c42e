"""What came over a WebSocket and was not taken yet: a window of it at most, so that what follows is always heard."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketState

from moorage.contracts.dataplane import WINDOW_BYTES
from moorage.domain.errors import InvalidRequest, MoorageError

_TOLD_EACH = 64 * 1024
Control = Callable[[dict[str, Any]], Awaitable[None]]


class Inbox:
    """If reading from the WebSocket stopped while something reads nothing, nobody would hear that the client left."""

    def __init__(self) -> None:
        self._held: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        if self._ended:
            raise InvalidRequest("input came after its end")
        if self._size + len(data) > WINDOW_BYTES:
            raise InvalidRequest(f"more than {WINDOW_BYTES} bytes of input wait to be taken")
        self._held.append(data)
        self._size += len(data)
        self._news.set()

    def end(self) -> None:
        self._ended = True
        self._news.set()

    async def take(self) -> bytes:
        """The next piece; empty when the end has come."""
        while not self._held:
            if self._ended:
                return b""
            self._news.clear()
            await self._news.wait()
        data = self._held.popleft()
        self._size -= len(data)
        return data


async def fill(inbox: Inbox, websocket: WebSocket, control: Control) -> None:
    """Until the client leaves. Text frames are JSON objects with a `type`."""
    while (message := await websocket.receive())["type"] == "websocket.receive":
        if (data := message.get("bytes")) is not None:
            inbox.put(data)
            continue
        words = _parsed(message.get("text") or "")
        if words["type"] == "eof":
            inbox.end()
        else:
            await control(words)


async def empty(inbox: Inbox, websocket: WebSocket, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Until its end; the client is told how much was taken."""
    taken = told = 0
    while data := await inbox.take():
        await take(data)
        taken += len(data)
        if taken - told >= _TOLD_EACH:
            told = taken
            await websocket.send_json({"type": "taken", "bytes": taken})


async def refuse(websocket: WebSocket, error: MoorageError) -> None:
    """In words, once the WebSocket is open."""
    if websocket.application_state is WebSocketState.CONNECTED:
        await websocket.send_json({"type": "error", "code": error.code, "msg": error.message})
        await websocket.close(1008)


def _parsed(text: str) -> dict[str, Any]:
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, dict) or not isinstance(words.get("type"), str):
        raise InvalidRequest('a text frame must be a JSON object with a "type"')
    return words
