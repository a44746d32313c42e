"""Lengths of time as people write them."""

from __future__ import annotations

import re

import typer

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def parse_seconds(text: str | float) -> float:
    """Seconds in `90`, `10s`, `5m`, `2h` or `1d`."""
    match = _LENGTH.fullmatch(str(text).strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a length of time; allowed are 90, 10s, 5m, 2h or 1d.")
    number, unit = match.groups()
    return float(number) * _UNITS[unit]
