"""Slots: what a node has and a session asks for, as whole numbers of a base unit.

`cpu` counts millicores, `mem` bytes, a slot that ends in `.shares` hundredths of a device; every other slot counts
whole devices or slices. Whole numbers add up without rounding, fit a database column, and survive JSON.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from moorage.domain.errors import InvalidRequest

CPU = "cpu"
MEM = "mem"
Slots = dict[str, int]

SHARES_OF_A_DEVICE = 100  # the quantum is 0.01
MINIMUM = {CPU: 10, MEM: 6 * 1024**2}  # Docker refuses less than 6 MiB; 10 millicores is its smallest useful quota.

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtpe]?)(?:i?b)?", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_LARGEST = 2**62


def parse_size(text: str | float) -> int:
    """Bytes in `256m`, `1.5g` or a plain number; suffixes k m g t p e are powers of 1024."""
    match = None if isinstance(text, bool) else _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise _malformed("memory", text, "256m, 1.5g or a number of bytes")
    number, suffix = match.groups()
    return _bounded("memory", text, float(number) * 1024 ** _POWER[suffix.lower()])


def parse_cpu(text: str | float) -> int:
    """Millicores in `1`, `0.5` or `500m`."""
    words = str(text).strip()
    try:
        cores = float(words[:-1]) / 1000 if words.endswith("m") else float(words)
    except ValueError:
        raise _malformed("cpu", text, "1, 0.5 or 500m") from None
    if isinstance(text, bool) or not cores >= 0:
        raise _malformed("cpu", text, "1, 0.5 or 500m")
    return _bounded("cpu", text, cores * 1000)


def is_shares(name: str) -> bool:
    return name.endswith(".shares")


def parse_shares(name: str, text: str | float) -> int:
    """Hundredths of a device in `0.5` or `2`; anything finer is refused."""
    try:
        hundredths = round(float(text) * SHARES_OF_A_DEVICE, 6)
    except (ValueError, OverflowError):
        hundredths = -1.0
    if isinstance(text, bool) or not 0 <= hundredths <= _LARGEST:
        raise _malformed(name, text, "a number of devices in steps of 0.01, such as 0.5")
    if hundredths != int(hundredths):
        raise _malformed(name, text, "a multiple of the quantum 0.01")
    return int(hundredths)


def parse_slots(request: Mapping[str, str | int | float]) -> Slots:
    """The slots a person wrote, in base units. Unknown units and negative amounts are refused with what is allowed."""
    slots: Slots = {}
    for name, text in request.items():
        if name == CPU:
            slots[name] = parse_cpu(text)
        elif name == MEM:
            slots[name] = parse_size(text)
        elif is_shares(name):
            slots[name] = parse_shares(name, text)
        elif isinstance(text, bool) or not str(text).isdecimal():
            raise _malformed(name, text, "a whole number of devices")
        else:
            slots[name] = _bounded(name, text, int(text))
    return slots


def check_amounts(slots: Mapping[str, int]) -> None:
    """Refuses less than the smallest container, and whole devices together with shares of them."""
    for name, least in MINIMUM.items():
        if slots.get(name, 0) < least:
            asked = format_slot(name, slots.get(name, 0))
            raise InvalidRequest(
                f"{name} {asked} is less than the least allowed, {format_slot(name, least)}", code="malformed-size"
            )
    for name, amount in slots.items():
        kind = name.removesuffix(".shares")
        if amount and is_shares(name) and slots.get(f"{kind}.device"):
            raise InvalidRequest(
                f"{kind}.device and {name} exclude each other; ask for whole devices or for shares",
                code="exclusive-slots",
            )


def format_slot(name: str, amount: int) -> str:
    """`1.5` for 1500 millicores, `256 MiB` for bytes, `0.5` for 50 shares, the plain number for devices."""
    if name == CPU:
        return f"{amount / 1000:g}"
    if name == MEM:
        return _format_bytes(amount)
    return f"{amount / SHARES_OF_A_DEVICE:g}" if is_shares(name) else str(amount)


def format_slots(slots: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_slot(name, amount)}" for name, amount in slots.items())


def fits(request: Mapping[str, int], free: Mapping[str, int]) -> bool:
    return all(free.get(name, 0) >= amount for name, amount in request.items())


def _format_bytes(amount: int) -> str:
    for power, unit in ((6, "EiB"), (5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**power:
            return f"{amount / 1024**power:.4g} {unit}"
    return f"{amount} B"


def _bounded(name: str, text: object, amount: float) -> int:
    if amount > _LARGEST:
        raise InvalidRequest(f"{name} {text!r} is larger than any machine", code="malformed-size")
    return round(amount)


def _malformed(name: str, text: object, allowed: str) -> InvalidRequest:
    return InvalidRequest(
        f"{name} {text!r} is not an amount; allowed is {allowed}",
        code="malformed-size",
        data={"field": name, "value": str(text)[:100], "allowed": allowed},
    )
