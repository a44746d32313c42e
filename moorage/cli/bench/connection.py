"""As much HTTP as uvicorn answers: keep-alive, and bodies with a Content-Length. Costs the asking side little."""

from __future__ import annotations

import asyncio
import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One request at a time over one connection, made anew when the server has closed it meanwhile."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """(status, body)."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._received.clear()
            self._transport, _ = await loop.create_connection(lambda: self, self._host, self._port)
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < whole:
            return
        answer = int(self._received[9:12]), bytes(self._received[end + 4 : whole])
        del self._received[:whole]
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


def request(method: str, path: str, authorization: str = "", body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: bench"]
    if authorization:
        head.append(f"Authorization: {authorization}")
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body
