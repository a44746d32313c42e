"""One TCP connection to a port of a container, over a WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from agent_worker.dataplane import inbox, until
from agent_worker.dataplane.access import Access
from agent_worker.runtimes.contract import PortClosed
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError

_CHUNK = 64 * 1024
_HIGHEST = 65535


class Ports:
    def __init__(self, access: Access) -> None:
        self._access = access

    async def open(self, websocket: WebSocket) -> None:
        port = int(websocket.path_params["port"])
        session_id, kernel_id = self._access.allow(websocket, f"port:{port}")
        if not 0 < port <= _HIGHEST:
            raise InvalidRequest(f"port {port} is none; ports are from 1 to {_HIGHEST}")
        container = await self._access.running(session_id, kernel_id)
        with self._access.places.take(kernel_id):
            try:
                reader, writer = await self._access.runtime.connect(container, port)
            except PortClosed as error:
                raise Conflict(str(error), code="port-closed") from None
            try:
                await websocket.accept()
                with suppress(WebSocketDisconnect):
                    await self._serve(websocket, reader, writer, kernel_id)
            finally:
                writer.transport.abort()

    async def _serve(
        self, websocket: WebSocket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kernel_id: str
    ) -> None:
        held = inbox.Inbox()

        async def take(data: bytes) -> None:
            self._access.uses.touch(kernel_id)
            writer.write(data)
            await writer.drain()

        async def there() -> None:
            await inbox.empty(held, websocket, take)
            await writer.drain()
            writer.write_eof()

        async def back() -> None:
            while data := await reader.read(_CHUNK):
                self._access.uses.touch(kernel_id)
                await websocket.send_bytes(data)
            await websocket.send_json({"type": "eof"})

        try:
            await until.all_of(there(), back(), until=inbox.fill(held, websocket, _no_control))
            await websocket.close()
        except MoorageError as error:
            await inbox.refuse(websocket, error)
        except OSError:  # the other side of the port went
            await websocket.close(1011)


async def _no_control(words: dict[str, Any]) -> None:
    raise InvalidRequest(f"{words['type'][:40]!r} is no frame here; allowed is eof")
