"""Requests that say in every way who asks."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio
from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import Message

from api.auth.memory import Memory
from moorage import signing

HOST = "gateway"
VERSION = "v9.20250722"


def keys_of(who: dict[str, str]) -> tuple[str, str]:
    access_key, _, secret = base64.b64decode(who["Authorization"].split()[1]).decode().partition(":")
    return access_key, secret


def now(ahead_s: float = 0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=ahead_s)).isoformat()


def as_backendai(
    who: dict[str, str],
    method: str = "GET",
    target: str = "/session",
    *,
    date: str = "",
    host: str = HOST,
    content_type: str = "text/plain",
    hash_name: str = "sha256",
) -> dict[str, str]:
    """As Backend.AI's client sends it: text/plain and no body."""
    asked = signing.Asked(method, target, date or now(), host, content_type, VERSION)
    headers = signing.sign_as_backendai(asked, *keys_of(who), hash_name=hash_name)
    return headers | ({"Content-Type": content_type} if content_type else {})


def as_moorage(
    who: dict[str, str],
    method: str = "GET",
    target: str = "/session",
    *,
    date: str = "",
    body: bytes = b"",
    nonce: str = "",
    content_type: str = "",
) -> dict[str, str]:
    asked = signing.Asked(method, target, date or now(), HOST, content_type)
    headers = signing.sign(asked, *keys_of(who), body=body, nonce=nonce)
    return headers | ({"Content-Type": content_type} if content_type else {})


def a_connection(headers: dict[str, str], *, kind: str = "websocket", path: str = "/session") -> HTTPConnection:
    """As a server hands it over; without a body."""
    return HTTPConnection(
        {
            "type": kind,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 4711),
        }
    )


def memory_of(app: FastAPI) -> Memory:
    found: Memory = app.state.parts.authentication.memory
    return found


async def until(is_so: Callable[[], bool]) -> None:
    """Returns as soon as it is so; fails when that takes 10 s."""
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        await anyio.sleep(0.002)


async def told_by(app: FastAPI, change: Callable[[], Awaitable[object]]) -> None:
    """Makes the change, and returns when the database has told the app."""
    memory = memory_of(app)
    await until(lambda: memory.listens)
    before = memory.forgotten
    await change()
    await until(lambda: memory.forgotten > before)


async def opened(app: FastAPI, path: str, headers: dict[str, str]) -> list[Message]:
    """What the app sends to whoever opens a WebSocket."""
    sent: list[Message] = []
    scope = dict(a_connection(headers, path=path).scope) | {
        "scheme": "ws", "server": (HOST, 80), "subprotocols": [], "http_version": "1.1", "asgi": {"version": "3.0"},
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent
