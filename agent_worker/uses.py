"""When somebody last used a session by hand: typed, ran a command, moved files, or spoke with one of its ports."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST = 10_000  # kernels remembered; the one that was used the longest ago goes first


class Uses:
    """In memory alone: after a restart of the agent nothing is known, which is no proof of idleness."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: dict[str, float] = {}

    def touch(self, kernel_id: str) -> None:
        self._last.pop(kernel_id, None)
        self._last[kernel_id] = self._clock()
        if len(self._last) > _MOST:
            del self._last[next(iter(self._last))]

    def last_use(self, kernel_id: str) -> float | None:
        """Monotonic seconds; None if no use is known."""
        return self._last.get(kernel_id)

    def forget(self, kernel_id: str) -> None:
        self._last.pop(kernel_id, None)
