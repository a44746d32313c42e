"""What a container said last, fit to be shown: as text, short, and without the secrets that it was given."""

from __future__ import annotations

import re
from collections.abc import Iterable

# A shorter value of a variable may be a part of any word.
_SHORTEST_HIDDEN = 4
# A line of a secret of several lines, such as a key.
_SHORTEST_LINE = 8
_HIDDEN = "[hidden]"
_LINES = 20
LAST_BYTES = 2048
# Secrets are looked for in this much before the cut, so that none is cut in two and overlooked.
READ_BYTES = 256 * 1024
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


def without(words: str, values: Iterable[str]) -> str:
    """The words, should they quote one of the values or a line of one; longer ones first."""
    parts = {value for value in values if len(value) >= _SHORTEST_HIDDEN}
    parts |= {line for value in parts for line in value.splitlines() if len(line.strip()) >= _SHORTEST_LINE}
    for value in sorted(parts, key=len, reverse=True):
        words = words.replace(value, _HIDDEN)
    return words


def telling(values: Iterable[str]) -> set[str]:
    """Those that may be secrets: `true` and `8080` are not, and a log without them can't be read."""
    return {value for value in values if len(value) >= _SHORTEST_LINE or not (value.isalpha() or value.isdecimal())}


def last_lines(log: bytes, values: Iterable[str]) -> str:
    """The last 20 lines of a log, 2 KiB at most."""
    text = without(_text(log[-READ_BYTES:]), telling(values))
    lines = [line.rstrip() for line in text.rstrip().splitlines()[-_LINES:]]
    return _cut("\n".join(lines), LAST_BYTES)


def last_line(output: bytes, values: Iterable[str], most: int = 200) -> str:
    """The last line of an output that says something."""
    lines = [line.strip() for line in without(_text(output[-READ_BYTES:]), telling(values)).splitlines()]
    return _cut(next((line for line in reversed(lines) if line), ""), most)


def _text(raw: bytes) -> str:
    """Without colours and other controls: neither PostgreSQL nor a terminal takes them."""
    plain = _COLOURS.sub("", raw.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n"))
    return "".join(char for char in plain if char.isprintable() or char in "\n\t")


def _cut(text: str, most: int) -> str:
    """Its end, so many bytes of it in UTF-8 at most."""
    raw = text.encode()
    return text if len(raw) <= most else "…" + raw[-(most - len("…".encode())) :].decode(errors="ignore")
