"""Who guesses waits longer each time, and whether the user exists makes no difference."""

from __future__ import annotations

import hmac
import math
import secrets
from collections import OrderedDict

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.tokens import Clock
from moorage.db import attempts
from moorage.db.attempts import Attempt, Locked, lock_s
from moorage.domain.errors import TooManyRequests

_STRANGERS_AT_MOST = 10_000


class Lockout:
    def __init__(self, engine: AsyncEngine, *, threshold: int, clock: Clock) -> None:
        self._engine = engine
        self._threshold = threshold
        self._clock = clock
        self._strangers = _Strangers(threshold)

    async def begin(self, email: str) -> Attempt:
        """Counts an attempt to log in; TooManyRequests while the user is locked, which counts nothing."""
        now = self._clock()
        found = await attempts.begin(self._engine, email, now=now, threshold=self._threshold)
        found = found or self._strangers.begin(email, now)
        if isinstance(found, Locked):
            raise _locked(found.until - now)
        return found

    async def undo(self, attempt: Attempt) -> None:
        await attempts.undo(self._engine, attempt, threshold=self._threshold)


class _Strangers:
    """The same count for e-mail addresses of nobody; only keyed hashes of them are held, and not too many."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._key = secrets.token_bytes(32)
        self._failed: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def begin(self, email: str, now: float) -> Attempt | Locked:
        key = hmac.digest(self._key, email.encode(), "sha256")
        failed, until = self._failed.get(key, (0, 0.0))
        if until > now:
            return Locked(until)
        self._failed[key] = (failed + 1, now + lock_s(failed + 1, self._threshold))
        self._failed.move_to_end(key)
        while len(self._failed) > _STRANGERS_AT_MOST:
            self._failed.popitem(last=False)
        return Attempt("", failed + 1)


def _locked(wait_s: float) -> TooManyRequests:
    wait_s = max(1, math.ceil(wait_s))
    return TooManyRequests(
        f"too many wrong attempts; try again in {wait_s} s",
        code="too-many-attempts",
        retry_after_s=wait_s,
        hint="a right password is refused meanwhile, too, and does not make the wait longer",
        data={"retry_after_s": wait_s},
    )
