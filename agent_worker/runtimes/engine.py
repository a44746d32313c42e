"""Docker's API for what streams: each stream has a connection of its own and no thread, and nothing is read ahead."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import docker
import httpx

from agent_worker.runtimes.contract import RuntimeRefusal

CHUNK = 64 * 1024
# To answer at all; a stream that is open may be silent for ever.
_ANSWER_S = 60.0
_QUIET = httpx.Timeout(_ANSWER_S, read=None, write=None)
_HEAD_BYTES = 8


class Missing(RuntimeRefusal):
    """The container, command or file is not there."""


class Engine:
    """Speaks with the engine of a client. RuntimeRefusal with Docker's words, Missing for what is not there."""

    def __init__(self, client: docker.APIClient) -> None:
        sockets = [getattr(adapter, "socket_path", None) for adapter in client.adapters.values()]
        uds = next((path for path in sockets if path), None)
        base = "http://docker" if uds else str(client.base_url)
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=uds, limits=httpx.Limits(max_keepalive_connections=8)),
            base_url=f"{base}/v{client.api_version}",
            headers={"Accept-Encoding": "identity"},
            timeout=_ANSWER_S,
        )

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        answer = await self._http.request(method, path, **options)
        _check(answer.status_code, answer.content)
        return answer

    @asynccontextmanager
    async def stream(self, method: str, path: str, **options: Any) -> AsyncIterator[httpx.Response]:
        async with self._http.stream(method, path, timeout=_QUIET, **options) as answer:
            if answer.status_code >= 400:
                _check(answer.status_code, await answer.aread())
            yield answer

    async def connect(self, path: str, body: object) -> tuple[Any, AsyncExitStack]:
        """A connection that is the command's own from now on, and what closes it."""
        closing = AsyncExitStack()
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        try:
            answer = await closing.enter_async_context(self.stream("POST", path, json=body, headers=headers))
        except BaseException:
            await closing.aclose()
            raise
        return answer.extensions["network_stream"], closing

    async def close(self) -> None:
        await self._http.aclose()


class Frames:
    """The payloads within Docker's multiplexed stream, each with the output it came from (32 KiB at most)."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]:
        return self

    async def __anext__(self) -> tuple[int, bytes]:
        """What breaks off within a frame is given as far as it came."""
        await self._have(_HEAD_BYTES)
        if len(self._held) < _HEAD_BYTES:
            raise StopAsyncIteration
        output, size = self._held[0], int.from_bytes(self._held[4:_HEAD_BYTES], "big")
        del self._held[:_HEAD_BYTES]
        await self._have(size)
        payload = bytes(self._held[:size])
        del self._held[:size]
        return output, payload

    @property
    def another(self) -> bool:
        """Whether a whole one has come already."""
        head = self._held[:_HEAD_BYTES]
        return len(head) == _HEAD_BYTES and len(self._held) >= _HEAD_BYTES + int.from_bytes(head[4:], "big")

    async def _have(self, size: int) -> None:
        while len(self._held) < size and (piece := await anext(self._pieces, b"")):
            self._held += piece


def _check(status: int, body: bytes) -> None:
    if status < 400:
        return
    try:
        words = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        words = f"Docker answered {status}"
    raise Missing(words) if status == 404 else RuntimeRefusal(words)
