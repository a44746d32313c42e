"""What strangers wrote, as it may stand in a line of a log or of the audit."""

from __future__ import annotations


def one_line(text: str, most: int = 300) -> str:
    """Control characters and halves of surrogates are escaped, what is longer than `most` characters is cut off."""
    if len(text) <= most and text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:most])
