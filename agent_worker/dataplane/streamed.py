"""An answer that takes a place while it is sent, at the pace of whoever reads it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from agent_worker.dataplane.places import Place


class Streamed(StreamingResponse):
    def __init__(self, content: AsyncIterator[bytes], place: Place, **options: Any) -> None:
        super().__init__(content, **options)
        self._content, self._place = content, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Whatever becomes of the client, its source is closed and its place given back."""
        with self._place:
            try:
                await super().__call__(scope, receive, send)
            finally:
                if isinstance(self._content, AsyncGenerator):
                    await self._content.aclose()
