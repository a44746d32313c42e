"""Who was verified a moment ago, so that the next request costs no SQL."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from moorage import log
from moorage.db.engine import CONNECTION_LOST, listening
from moorage.db.principals import IDENTITY_CHANNEL
from moorage.domain.tenancy import Principal

# The database tells at once when somebody changes. This is for a connection that died without a word.
_REMEMBER_S = 5.0
_REMEMBER_AT_MOST = 4096

_log = log.get("api")


@dataclass(frozen=True, slots=True)
class Known:
    """A verified asker. `secret` is a key pair's, for signatures; `permissions` a personal access token's."""

    principal: Principal
    secret: bytes = b""
    permissions: frozenset[str] | None = None


class Memory:
    """Forgets everything as soon as anything about anybody changes, and keeps nothing while it can't hear of that."""

    def __init__(self, database_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._database_url = database_url
        self._clock = clock
        self._known: OrderedDict[Hashable, tuple[float, Known]] = OrderedDict()
        self.listens = False
        self.forgotten = 0

    def get(self, key: Hashable) -> Known | None:
        found = self._known.get(key)
        if found is None:
            return None
        if found[0] > self._clock():
            return found[1]
        del self._known[key]
        return None

    def put(self, key: Hashable, known: Known, *, since: int, at_most_s: float = _REMEMBER_S) -> None:
        """`since` is `forgotten` from before it was looked up: what changed meanwhile is not remembered as it was."""
        if not self.listens or since != self.forgotten:
            return
        self._known[key] = (self._clock() + min(at_most_s, _REMEMBER_S), known)
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBER_AT_MOST:
            self._known.popitem(last=False)

    async def listen(self) -> None:
        """For ever; connects again when PostgreSQL was away."""
        while True:
            try:
                async with listening(self._database_url, IDENTITY_CHANNEL) as changed:
                    self.forget()
                    self.listens = True
                    while await changed.get() != CONNECTION_LOST:
                        self.forget()
            except (OSError, Exception) as error:
                _log.warning("not listening for who changes", error=str(error)[:200])
            finally:
                self.listens = False
                self.forget()
            await asyncio.sleep(0.5)

    def forget(self) -> None:
        self._known.clear()
        self.forgotten += 1
