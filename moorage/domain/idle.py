"""When a session is idle, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class IdleStage(StrEnum):
    WARNED = "warned"
    IDLE = "idle"  # also after the grace period: it is to be stopped
    ACTIVE = "active"  # used again after a warning


@dataclass(frozen=True, slots=True)
class IdlePolicy:
    """Idle is what stays below every threshold given, for `after_s` without a break; what is unknown is not idle.

    `cpu_percent` of its own cores, `device_percent` of its own devices, `net_bps` bytes a second in and out together.
    None is no threshold. `after_s` 0 is never. `grace_s` lies between the warning and the stop.
    """

    after_s: float = 0.0
    cpu_percent: float | None = None
    device_percent: float | None = None
    net_bps: float | None = None
    grace_s: float = 300.0
    dry_run: bool = False  # says what it would do, and does nothing
