"""WebSockets of the API: bytes one way and the other, and words between the programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from moorage.domain.errors import MoorageError, Unavailable

PIECE = 32 * 1024
# The API takes 1 MiB that its side has not read yet; half of it leaves room for what is on the way.
_WINDOW = 512 * 1024
_LARGEST = 2 * 1024 * 1024
_UNANSWERED_S = 300.0


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    headers: Mapping[str, str] = field(repr=False)


class Broken(Unavailable):
    """The connection ended before what it was for."""


class Channel:
    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._sent = self._taken = 0
        self._room = asyncio.Event()

    async def send(self, data: bytes) -> None:
        """Waits while the other side has much that it did not take yet."""
        while self._sent - self._taken + len(data) > _WINDOW:
            self._room.clear()
            await self._room.wait()
        self._sent += len(data)
        await self._connection.send(data)

    async def say(self, type: str, **words: Any) -> None:
        await self._connection.send(json.dumps({"type": type, **words}))

    async def frames(self) -> AsyncIterator[bytes | dict[str, Any]]:
        """Until the other side closes. Its refusal is raised."""
        try:
            async for frame in self._connection:
                if isinstance(frame, bytes):
                    yield frame
                    continue
                words = json.loads(frame)
                if words["type"] == "taken":
                    self._taken = int(words["bytes"])
                    self._room.set()
                elif words["type"] == "error":
                    raise MoorageError(str(words["msg"]), code=str(words["code"]))
                else:
                    yield words
        except ConnectionClosed:
            raise Broken("the connection broke off") from None


@asynccontextmanager
async def opened(address: Address) -> AsyncIterator[Channel]:
    """Refused with the API's words, or Unavailable."""
    try:
        connection = await connect(
            address.url,
            additional_headers=dict(address.headers),
            compression=None,
            proxy=None,
            max_size=_LARGEST,
            max_queue=4,
            open_timeout=30.0,
            close_timeout=2.0,
            ping_timeout=_UNANSWERED_S,
        )
    except InvalidStatus as refusal:
        raise _problem(refusal) from None
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
        raise Unavailable(
            f"no answer from {address.url.partition('?')[0]} ({error or type(error).__name__})",
            hint="is it running? `moor status` tells, `moor up` starts it",
        ) from None
    try:
        yield Channel(connection)
    finally:
        await connection.close()


def _problem(refusal: InvalidStatus) -> MoorageError:
    try:
        body = json.loads(refusal.response.body or b"")
        return MoorageError(str(body["msg"]), code=str(body["code"]), hint=str(body.get("hint") or ""))
    except (ValueError, KeyError, TypeError):
        return MoorageError(f"the API answered {refusal.response.status_code}")
