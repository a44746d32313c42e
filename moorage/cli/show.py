"""What people see: tables, durations, and JSON for programs. Colours only on a terminal."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moorage.domain.resources import format_slot, format_slots

_WIDE = 400  # a pipe has no width; nothing is cut off there


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns on stdout."""
    console().print(drawn(headings, rows))


def drawn(headings: Sequence[str], rows: Iterable[Sequence[object]], *, below: str = "") -> Table:
    """Columns, to be printed. Cells are plain text: what a user named is never read as markup."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.caption, made.caption_justify = Text(printable(below)) if below else None, "left"
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def fields(values: dict[str, object]) -> None:
    drawn = Table(box=None, pad_edge=False, show_header=False)
    drawn.add_column(style="bold")
    drawn.add_column(overflow="fold")
    for name, value in values.items():
        drawn.add_row(name, Text(printable(value)))
    console().print(drawn)


def as_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def note(line: str) -> None:
    """A line about progress, on stderr, so that stdout holds the result alone."""
    print(printable(line), file=sys.stderr, flush=True)


class Line:
    """One line on stderr that changes: on a terminal in its place, else once in a while, and never twice the same."""

    _EVERY_S = 5.0

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()
        self._said = ""
        self._at = -self._EVERY_S

    def say(self, words: str) -> None:
        words = printable(words)
        if words == self._said:
            return
        if self._on_terminal:
            cut = words[: max(20, shutil.get_terminal_size().columns - 1)]
            print(f"\r\033[K{cut}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self._at >= self._EVERY_S:
            print(words, file=sys.stderr, flush=True)
            self._at = time.monotonic()
        self._said = words

    def end(self) -> None:
        """What was said last stays where it is."""
        if self._said and self._on_terminal:
            print(file=sys.stderr, flush=True)


def printable(value: object) -> str:
    """Empty for None; control characters of strangers' texts don't reach the terminal."""
    if value is None:
        return ""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in str(value))


def duration(seconds: float) -> str:
    """`350 ms`, `2.4 s`, `3 m 05 s`, `2 h 04 m`, `3 d 04 h`."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // lower_size:02d} {lower}"
    return f"{whole} s"


def moment(iso: str) -> datetime:
    parsed = datetime.fromisoformat(iso)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def age(iso: str | None) -> str:
    return duration((datetime.now(UTC) - moment(iso)).total_seconds()) if iso else ""


def slots(amounts: dict[str, Any]) -> str:
    return format_slots({name: int(amount) for name, amount in amounts.items()})


def slot(name: str, amount: Any) -> str:
    return format_slot(name, int(amount))


def console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
