"""Knocking at a WebSocket of an app, without a server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.types import ASGIApp, Message


async def knock(app: ASGIApp, address: str, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """(status, the problem); 101 if it would be opened, whereupon the client leaves."""
    parts = urlsplit(address)
    status, body = 0, b""

    async def receive() -> Message:
        return {"type": "websocket.disconnect", "code": 1001} if status else {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "websocket.accept":
            status = 101
        elif message["type"] == "websocket.http.response.start":
            status = message["status"]
        elif message["type"] == "websocket.http.response.body":
            body += message["body"]

    scope = {
        "type": "websocket",
        "path": unquote(parts.path),
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 4711),
        "server": ("gateway", 80),
        "scheme": "ws",
        "root_path": "",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "state": {},
    }
    await app(scope, receive, send)
    return status, json.loads(body) if body else {}
