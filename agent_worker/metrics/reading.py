"""Counters and levels as they stand in the kernel's files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reading:
    """A container or the node at one moment. Bytes, microseconds and millicores; None is unknown."""

    age_s: float | None = None  # since it began, by a clock that nobody sets
    cpu_us: int | None = None
    cpu_limit: int | None = None
    mem: int | None = None
    mem_limit: int | None = None
    mem_peak: int | None = None
    io_read: int | None = None
    io_write: int | None = None
    net_rx: int | None = None
    net_tx: int | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Readings:
    """One round: the node, and by container id those that are still there."""

    node: Reading = Reading()
    containers: Mapping[str, Reading] = field(default_factory=dict)
