"""When an answer begins, as ASGI says it: to a request, and to a WebSocket that is refused."""

from __future__ import annotations

from starlette.types import Message

_BEGINNINGS = frozenset({"http.response.start", "websocket.http.response.start"})
ASKED = frozenset({"http", "websocket"})


def begins(message: Message) -> bool:
    return message["type"] in _BEGINNINGS


def opens(message: Message) -> bool:
    """A WebSocket is open from then on."""
    return bool(message["type"] == "websocket.accept")
