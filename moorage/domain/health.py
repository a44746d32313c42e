"""How a container is found to be well: probes, and what they found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Health(StrEnum):
    STARTING = "starting"  # its start probe has not succeeded yet
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Probe:
    """A command in the container that exits with 0, or a port of it that accepts a connection; one of the two."""

    command: list[str] = field(default_factory=list)
    port: int = 0
    every_s: float = 10.0
    timeout_s: float = 5.0
    failures: int = 3  # so many in a row and it has failed


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """`start` must succeed once within `start_within_s` of the start; from then on `live` must not fail.

    Without `start`, it is `live` that must succeed once within that time, and is tried every second until then.
    """

    start: Probe | None = None
    live: Probe | None = None
    start_within_s: float = 60.0


def health_check(kept: Mapping[str, Any] | None) -> HealthCheck | None:
    """From the plain data that `asdict` makes of one."""
    if kept is None:
        return None
    probes = {name: Probe(**kept[name]) if kept.get(name) else None for name in ("start", "live")}
    return HealthCheck(**{**kept, **probes})
