"""How many requests one may make: per access key in 900 s, and per address without one in 60 s.

Counted in sliding windows: what the period before held weighs as much as of it still lies within the window. One
process counts in memory; several share a Redis. While that is away, requests pass: a cluster that nobody can reach
would be worse than one without limits for a while.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network
from math import floor
from typing import Protocol

from limits import RateLimitItemPerSecond
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import StorageTypes, storage_from_string

from moorage import log
from moorage.db.keypairs import DEFAULT_RATE_LIMIT
from moorage.domain.errors import InvalidRequest, TooManyRequests
from moorage.domain.tenancy import Principal

KEY_WINDOW_S = 900
ADDRESS_WINDOW_S = 60
IN_MEMORY = "async+memory://"
_COUNTED_AT_MOST = 200_000  # keys and addresses of one period; the oldest is forgotten first
_PATIENCE_S = 0.25  # of a request with a shared storage
_PAUSE_S = 5.0  # until a storage that was away is asked again
_WARN_EVERY_S = 60.0

_log = log.get("api")
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Rate:
    """What is left of a limit after a request. `retry_after_s` is 0 unless the request is one too many."""

    limit: int
    remaining: int
    window_s: int
    retry_after_s: float = 0.0

    def check(self) -> None:
        """Refuses the request that is one too many."""
        if self.retry_after_s:
            raise TooManyRequests(
                f"{self.limit} requests in {self.window_s} s are allowed; the next one in {self.retry_after_s:.0f} s",
                retry_after_s=self.retry_after_s,
                hint="wait as long as Retry-After says; ask for less often, or wait for changes (wait_from, follow)",
                data={"limit": self.limit, "window_s": self.window_s, "retry_after_s": self.retry_after_s},
            )

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As Backend.AI's clients read them."""
        return [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-window", b"%d" % self.window_s),
        ]


class Windows(Protocol):
    async def hit(self, key: str, *, limit: int, window_s: int) -> Rate:
        """Counts a request of the key, unless it is one too many."""
        ...


class InMemory:
    """Two counters for each length of window, of this period and the one before: nothing is ever looked through.

    (The storage of the library looks through all keys at each request: 2 ms with 20,000 of them.)
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._periods: dict[int, tuple[int, dict[str, int], dict[str, int]]] = {}

    async def hit(self, key: str, *, limit: int, window_s: int) -> Rate:
        period, passed = divmod(self._clock(), window_s)
        now, before = self._counters(window_s, int(period))
        here, there = now.get(key, 0), before.get(key, 0)
        used = floor(there * (1 - passed / window_s) + here)
        if used >= limit:
            return Rate(limit, 0, window_s, _wait(here, there, limit, window_s, passed))
        if here == 0 and len(now) >= _COUNTED_AT_MOST:
            del now[next(iter(now))]
        now[key] = here + 1
        return Rate(limit, limit - used - 1, window_s)

    def _counters(self, window_s: int, period: int) -> tuple[dict[str, int], dict[str, int]]:
        last, now, before = self._periods.get(window_s, (period, {}, {}))
        if period != last:
            now, before = {}, now if period == last + 1 else {}
        self._periods[window_s] = (period, now, before)
        return now, before


def _wait(here: int, there: int, limit: int, window_s: int, passed: float) -> float:
    """Whole seconds until less than the limit weighs."""
    if here < limit:
        return floor(window_s * (1 - (limit - here) / there) - passed) + 1.0
    return floor(window_s - passed + window_s * (1 - limit / here)) + 1.0


class Shared:
    """Counted by the library `limits`, in a storage that other processes see too."""

    def __init__(self, storage: StorageTypes) -> None:
        self._strategy = SlidingWindowCounterRateLimiter(storage)

    async def hit(self, key: str, *, limit: int, window_s: int) -> Rate:
        item = _item(limit, window_s)
        async with asyncio.timeout(_PATIENCE_S):
            passes = await self._strategy.hit(item, key)
            resets_at, remaining = await self._strategy.get_window_stats(item, key)
        return Rate(limit, remaining, window_s, 0.0 if passes else max(1.0, floor(resets_at - time.time()) + 1.0))


@lru_cache(1024)
def _item(limit: int, window_s: int) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(limit, window_s, namespace="moorage")


class Rates:
    """`anonymous` is requests of an address in 60 s; 0 is no limit."""

    def __init__(self, windows: Windows, *, anonymous: int, clock: Clock = time.time) -> None:
        self._windows = windows
        self._anonymous = anonymous
        self._clock = clock
        self._again_at = self._warn_at = 0.0

    async def count(self, who: Principal) -> Rate | None:
        """By the access key; who has none, or acts as somebody else, is counted as himself. None: no limit."""
        limit = who.rate_limit if who.access_key else DEFAULT_RATE_LIMIT
        if limit is None:
            return None
        return await self._hit(who.actor_id or who.access_key or who.user_id, limit, KEY_WINDOW_S)

    async def count_anonymous(self, address: str) -> Rate | None:
        if not self._anonymous:
            return None
        return await self._hit(network_of(address), self._anonymous, ADDRESS_WINDOW_S)

    async def _hit(self, key: str, limit: int, window_s: int) -> Rate | None:
        if self._again_at and self._clock() < self._again_at:
            return None
        try:
            return await self._windows.hit(key, limit=limit, window_s=window_s)
        except (StorageError, OSError, TimeoutError) as error:
            self._is_away(error)
            return None

    def _is_away(self, error: Exception) -> None:
        now = self._clock()
        self._again_at = now + _PAUSE_S
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY_S
            _log.warning("rate limits are not counted", error=f"{type(error).__name__}: {error}"[:200])


def is_free(path: str) -> bool:
    """Whoever watches over the gateway is never kept from it."""
    return path.startswith("/health/")


def network_of(address: str) -> str:
    """An IPv6 user has a whole /64 and takes another address of it at will: the network is counted."""
    return _network_of(address) if ":" in address else address


@lru_cache(4096)
def _network_of(address: str) -> str:
    return str(ip_network(f"{address}/64", strict=False))


def windows_for(storage: str, clock: Clock = time.time) -> Windows:
    """What the setting says: memory of this process, or a storage of the library `limits`."""
    if storage == IN_MEMORY:
        return InMemory(clock)
    try:
        if not storage.startswith("async+"):
            raise ConfigurationError("it begins with async+")
        return Shared(storage_from_string(storage, wrap_exceptions=True, implementation="redispy"))
    except ConfigurationError as error:
        raise InvalidRequest(
            f"MOORAGE_RATE_LIMIT_STORAGE can't be used: {str(error)[:200]}",
            code="invalid-setting",
            hint=f"{IN_MEMORY}, or async+redis://host:port with the package moorage[redis]",
        ) from None
