"""Limits on what a request may carry, as ASGI middleware: nothing too large is ever read."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem
from moorage.domain.errors import TooLarge

_UPLOAD = re.compile(r"/session/[^/]+/files")


class BodyLimit:
    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int) -> None:
        """An upload passes through and is never held, so that its limit is another."""
        self._app = app
        self._max, self._max_upload = max_bytes, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._max_upload if is_upload(scope) else self._max
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            await _refuse(int(declared), most)(scope, receive, send)
            return
        seen, refused = 0, False

        async def counted() -> Message:
            nonlocal seen, refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                refused = True
                return {"type": "http.disconnect"}
            return message

        async def guarded(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            await self._app(scope, counted, guarded)
        except Exception:
            if not refused:
                raise
        if refused:
            await _refuse(seen, most)(scope, receive, send)


def is_upload(scope: Scope) -> bool:
    return scope.get("method") == "PUT" and _UPLOAD.fullmatch(scope["path"]) is not None


def _refuse(size: int, most: int) -> ASGIApp:
    return problem(TooLarge(f"the body has {size} bytes or more; at most {most} are allowed"))
