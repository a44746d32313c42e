"""Names of images that are made of sessions."""

from __future__ import annotations

import re

from moorage.domain.errors import InvalidRequest

# No registry has this name: what is committed never hides an image that others pull, and is never asked for elsewhere.
COMMITTED = "committed.local"

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*(?:/[a-z0-9]+(?:[._-][a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_LONGEST = 200


def committed_name(text: str) -> str:
    """`committed.local/NAME:TAG` for NAME or NAME:TAG, with or without the first part; `latest` without a tag."""
    name, colon, tag = text.removeprefix(f"{COMMITTED}/").partition(":")
    tag = tag if colon else "latest"
    if len(name) > _LONGEST or not _NAME.fullmatch(name) or not _TAG.fullmatch(tag) or _is_host(name):
        raise InvalidRequest(
            f"image {text[:80]!r} can't be the name of a commit; allowed is NAME or NAME:TAG, of small letters, digits"
            " and . _ - /, for example mine:1",
            code="malformed-image-name",
            hint=f"it becomes {COMMITTED}/NAME:TAG, on the session's node",
            data={"field": "image"},
        )
    return f"{COMMITTED}/{name}:{tag}"


def _is_host(name: str) -> bool:
    """Whether the first part of a longer name would be read as a registry."""
    first, slash, _ = name.partition("/")
    return bool(slash) and ("." in first or first == "localhost")
