"""Lines of a log that begin with the time at which they were written, and where in a log a reader stands.

A stamp is UTC with nanoseconds and one blank behind it, `2026-01-31T12:00:00.000000001Z `: always 31 bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

STAMP_BYTES = 31
_STAMP = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z ")
_NEWLINE = 10
_POSITION = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z)\+(\d{1,15})")


@dataclass(frozen=True, slots=True)
class Position:
    """Behind so many bytes of what was written from the first line of that stamp on."""

    stamp: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.stamp}+{self.offset}"


def parse_position(words: str) -> Position | None:
    """None for what is no position."""
    match = _POSITION.fullmatch(words)
    return Position(match[1], int(match[2])) if match else None


def stamp_of(line: bytes | bytearray) -> str:
    """Empty if the line has none."""
    return line[: STAMP_BYTES - 1].decode() if _STAMP.match(line) else ""


def stamp_at(seconds: float) -> str:
    """The stamp of a moment, in seconds since 1970."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def unix_time(stamp: str) -> str:
    """Seconds since 1970 with all of the nanoseconds, as Docker takes them."""
    whole, _, rest = stamp.partition(".")
    return f"{int(datetime.fromisoformat(whole + '+00:00').timestamp())}.{rest.removesuffix('Z')}"


class Lines:
    """Takes stamped text piece by piece, and gives it back with or without stamps from a position on."""

    def __init__(self, *, stamps: bool = False, after: Position | None = None) -> None:
        self._stamps = stamps
        self._after = after or Position()
        self._held = bytearray()
        self._at_start = True
        self._stamp, self._offset = "", 0

    @property
    def position(self) -> Position:
        """Behind all that was given back."""
        return Position(self._stamp, self._offset)

    def feed(self, chunk: bytes) -> bytes:
        """What can be given back by now: a stamp is waited for until what it belongs to has begun."""
        self._held += chunk
        given = bytearray()
        while self._held and not (self._at_start and self._may_begin_a_stamp()):
            head = self._take_stamp() if self._at_start else b""
            end = self._held.find(b"\n") + 1 or len(self._held)
            self._at_start = self._held[end - 1] == _NEWLINE
            given += self._given(head, bytes(self._held[:end]))
            del self._held[:end]
        return bytes(given)

    def rest(self) -> bytes:
        """What never became a whole line."""
        held, self._held = bytes(self._held), bytearray()
        return held if not stamp_of(held) else b""

    def _may_begin_a_stamp(self) -> bool:
        return len(self._held) <= STAMP_BYTES and b"\n" not in self._held

    def _take_stamp(self) -> bytes:
        """Nothing before a line that was cut in two, or the words about what was left out."""
        stamp = stamp_of(self._held)
        if not stamp:
            return b""
        if stamp != self._stamp:
            self._stamp, self._offset = stamp, 0
        head = bytes(self._held[:STAMP_BYTES])
        del self._held[:STAMP_BYTES]
        return head

    def _given(self, head: bytes, piece: bytes) -> bytes:
        seen = max(0, self._after.offset - self._offset) if self._stamp == self._after.stamp else 0
        self._offset += len(piece)
        if not seen:
            return (head if self._stamps else b"") + piece
        return piece[seen:]
