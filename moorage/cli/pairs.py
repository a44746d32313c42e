"""KEY=VALUE as people write it on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from moorage.domain.errors import InvalidRequest


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """Each text is split at its first `=`; the last one of a key counts."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidRequest(f"{option} {text!r} is not KEY=VALUE")
        found[key] = value
    return found
