"""When a session is idle, and what is done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

# A policy that names no thresholds has these. None for the network: an open browser tab keeps talking, so its traffic
# would keep a forgotten session for ever; and silence alone would end what computes.
CPU_PERCENT, DEVICE_PERCENT, GRACE_S = 5.0, 5.0, 300.0


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


@dataclass(frozen=True, slots=True)
class IdleWish:
    """What a session asks for itself; None is as its owners' policies say. `exempt` is never, whatever they say."""

    after_s: float | None = None
    cpu_percent: float | None = None
    device_percent: float | None = None
    net_bps: float | None = None
    grace_s: float | None = None
    dry_run: bool = False
    exempt: bool = False


def policy_after(after_s: float, more: Mapping[str, Any] | None = None) -> IdlePolicy:
    """With the thresholds of `more`, or those that hold where nothing is said."""
    return IdlePolicy(after_s, **(more or {"cpu_percent": CPU_PERCENT, "device_percent": DEVICE_PERCENT}))


def idle_words(kept: Mapping[str, Any] | None) -> str:
    """`warned when idle for 1 h (CPU < 5 %, devices < 5 %), stopped 5 min later`, of a policy as plain data."""
    if not kept:
        return "never stopped for it"
    policy = IdlePolicy(**kept)
    end = "told (a dry run, so not stopped)" if policy.dry_run else "stopped"
    return f"warned when idle for {span(policy.after_s)} ({thresholds(policy)}), {end} {span(policy.grace_s)} later"


def span(seconds: float) -> str:
    """`45 s`, `5 min`, `1 h 30 min`, `2 d 6 h`: the two largest units that matter."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
    for size, unit, lower_size, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // lower_size
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    raise AssertionError(seconds)


def rate(bytes_a_second: float) -> str:
    """`120 B/s`, `1.5 kB/s`."""
    for size, unit in ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")):
        if bytes_a_second >= size:
            return f"{bytes_a_second / size:.3g} {unit}"
    return f"{bytes_a_second:.0f} B/s"


def thresholds(policy: IdlePolicy) -> str:
    """`CPU < 5 %, devices < 5 %`."""
    named = (("CPU", policy.cpu_percent), ("devices", policy.device_percent))
    found = [f"{name} < {percent:g} %" for name, percent in named if percent is not None]
    return ", ".join(found + ([] if policy.net_bps is None else [f"network < {rate(policy.net_bps)}"]))
