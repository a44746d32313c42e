"""How many streams may be open at once: the many of one session leave room for those of others."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Self

from moorage.domain.errors import TooManyRequests


class Places:
    def __init__(self, *, of_kernel: int = 32, of_node: int = 512) -> None:
        self._of_kernel, self._of_node = of_kernel, of_node
        self._taken: Counter[str] = Counter()

    def take(self, kernel_id: str) -> Place:
        """TooManyRequests with the numbers, if there is none left."""
        mine, all_of_them = self._taken[kernel_id], self._taken.total()
        if mine >= self._of_kernel:
            raise _full(f"{mine} streams of this kernel are open; {self._of_kernel} may be")
        if all_of_them >= self._of_node:
            raise _full(f"{all_of_them} streams are open on this node; {self._of_node} may be")
        self._taken[kernel_id] += 1
        return Place(self, kernel_id)

    def open(self) -> int:
        return self._taken.total()

    def _give_back(self, kernel_id: str) -> None:
        self._taken[kernel_id] -= 1
        if not self._taken[kernel_id]:
            del self._taken[kernel_id]


class Place:
    """One stream's; given back once, when its block is left."""

    def __init__(self, places: Places, kernel_id: str) -> None:
        self._places: Places | None = places
        self._kernel_id = kernel_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._places is not None:
            self._places._give_back(self._kernel_id)
            self._places = None


def _full(words: str) -> TooManyRequests:
    return TooManyRequests(words, code="too-many-streams", retry_after_s=5, hint="close some: logs -f, exec, cp, ports")
