"""How far the pull of an image has come, and what is on a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class PullProgress:
    """Layers and bytes, as far as the registry has told them: `bytes_total` grows until each layer has begun.

    `cached` of the layers were on the node before. `note` says what is waited for, for example the next try.
    """

    image: str
    layers_done: int = 0
    layers: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    cached: int = 0
    note: str = ""

    def amounts(self) -> str:
        """`3/7 layers, 41 of 120 MB`; empty while nothing is known."""
        parts = []
        if self.layers:
            parts.append(f"{self.layers_done}/{self.layers} layers")
        if self.bytes_total:
            parts.append(_of(self.bytes_done, self.bytes_total))
        return ", ".join([*parts, self.note] if self.note else parts)

    def words(self) -> str:
        """`pulling python:3.12: 3/7 layers, 41 of 120 MB`."""
        amounts = self.amounts()
        return f"pulling {self.image}" + (f": {amounts}" if amounts else "")


@dataclass(frozen=True, slots=True)
class NodeImage:
    """An image on a node under one of its names. `last_used` in seconds since 1970; 0 if no container ever had it.

    `digest` is empty for what came from no registry. `ours`: this agent pulled it, so it may be collected.
    """

    name: str
    image_id: str
    digest: str = ""
    size: int = 0
    last_used: float = 0.0
    ours: bool = False


def progress_of(plain: Mapping[str, Any]) -> PullProgress:
    """Of what the data plane answered; fields that are not known here are left out."""
    known = {one.name for one in fields(PullProgress)}
    return PullProgress(**{name: value for name, value in plain.items() if name in known})


def _of(done: int, total: int) -> str:
    if total < _MB:
        return f"{done / 1000:.0f} of {total / 1000:.0f} kB"
    if total < 10 * _MB:
        return f"{done / _MB:.1f} of {total / _MB:.1f} MB"
    return f"{done / _MB:.0f} of {total / _MB:.0f} MB"
