"""Small files of the kernel, which may be gone at any moment."""

from __future__ import annotations

import os
from contextlib import suppress


def text_of(path: str) -> str | None:
    """None if it is gone, or goes while it is read (a removed cgroup answers ENODEV)."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            pieces = []
            while piece := os.read(descriptor, 65536):
                pieces.append(piece)
            return b"".join(pieces).decode(errors="replace")
        finally:
            os.close(descriptor)
    return None


def number_of(path: str) -> int | None:
    """None for `max` too."""
    return number(text_of(path))


def number(text: str | None) -> int | None:
    words = (text or "").strip()
    return int(words) if words.isdecimal() else None


def field_of(text: str | None, name: str) -> int | None:
    """Of a file of lines `name number`."""
    for line in (text or "").splitlines():
        found, _, value = line.partition(" ")
        if found == name:
            return number(value)
    return None
