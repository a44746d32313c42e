"""Answers that come piece by piece from somewhere else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Streamed(StreamingResponse):
    def __init__(self, content: AsyncGenerator[Any, None], **options: Any) -> None:
        super().__init__(content, **options)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever becomes of the client, the source is closed at once."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._content.aclose()


async def with_silences(pieces: AsyncIterator[bytes], silence_s: float) -> AsyncGenerator[bytes, None]:
    """The same pieces, and an empty one after each so long silence."""
    coming: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(_next(pieces))
            done, _ = await asyncio.wait({coming}, timeout=silence_s)
            if not done:
                yield b""
                continue
            piece, coming = coming.result(), None
            if piece is None:
                return
            yield piece
    finally:
        if coming is not None:
            coming.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await coming


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)
