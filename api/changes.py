"""Who waits for a session to change is woken by the database: one listener for all of this process's requests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress

from moorage import log
from moorage.db.engine import CONNECTION_LOST, listening
from moorage.db.ledger import SESSION_CHANNEL

_log = log.get("api")


class Changes:
    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    async def listen(self) -> None:
        """For ever; connects again when PostgreSQL was away."""
        while True:
            try:
                async with listening(self._database_url, SESSION_CHANNEL) as changed:
                    while (session_id := await changed.get()) != CONNECTION_LOST:
                        for event in self._waiting.get(session_id, ()):
                            event.set()
            except (OSError, Exception) as error:
                _log.warning("not listening", error=str(error)[:200])
            await asyncio.sleep(0.5)

    def subscribe(self, session_id: str) -> asyncio.Event:
        event = asyncio.Event()
        self._waiting[session_id].add(event)
        return event

    def unsubscribe(self, session_id: str, event: asyncio.Event) -> None:
        self._waiting[session_id].discard(event)
        if not self._waiting[session_id]:
            del self._waiting[session_id]


async def wait(event: asyncio.Event, timeout_s: float) -> None:
    """Returns when it is set or the time is over."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), timeout_s)
    event.clear()
