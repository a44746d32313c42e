"""Text that a client may send."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def _storable(text: str) -> str:
    """PostgreSQL and a container's command line take neither NUL nor half of a surrogate pair."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("a NUL character or half of a surrogate pair is no text")
    return text


Text = Annotated[str, AfterValidator(_storable)]
