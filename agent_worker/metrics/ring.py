"""The last samples of one thing, in a fixed amount of memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from math import isnan, nan


class Ring:
    """Rows of `width` numbers, the oldest overwritten. A number is eight bytes, exact for whole ones up to 2^53."""

    def __init__(self, *, width: int, length: int) -> None:
        self._width = width
        self._length = length
        self._rows = array("d")
        self._next = 0

    def append(self, row: Sequence[float | None]) -> None:
        assert len(row) == self._width
        numbers = array("d", [nan if one is None else one for one in row])
        if len(self) < self._length:
            self._rows.extend(numbers)
        else:
            self._rows[self._next * self._width : (self._next + 1) * self._width] = numbers
        self._next = (self._next + 1) % self._length

    def rows(self) -> Iterator[tuple[float | None, ...]]:
        """The oldest first."""
        count = len(self)
        first = self._next if count == self._length else 0
        for number in range(count):
            yield self._row((first + number) % self._length)

    def last(self) -> tuple[float | None, ...] | None:
        return self._row((self._next - 1) % self._length) if len(self) else None

    @property
    def nbytes(self) -> int:
        """When it is full."""
        return self._length * self._width * self._rows.itemsize

    def __len__(self) -> int:
        return len(self._rows) // self._width

    def _row(self, number: int) -> tuple[float | None, ...]:
        found = self._rows[number * self._width : (number + 1) * self._width]
        return tuple(None if isnan(one) else one for one in found)
