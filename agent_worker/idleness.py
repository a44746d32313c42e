"""For how long a container has been idle: a count that is fed with samples. Pure; seconds are a monotonic clock's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moorage.domain.idle import IdlePolicy, IdleStage, rate
from moorage.domain.stats import Stats

# What counts is the mean of a minute: a moment's housekeeping is no use, a minute's work is.
_PART_S = 60.0
# A sample speaks for the time since the one before it; longer without one, and nobody knows what was in between.
UNKNOWN_S = 30.0

Use = Mapping[str, float | None]
"""Thresholds of IdlePolicy by name → what the container did, in the same units; None is unknown."""


@dataclass(slots=True)
class _Means:
    """Over time, by threshold."""

    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, use: Mapping[str, float], seconds: float) -> None:
        self.seconds += seconds
        for name, value in use.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * seconds

    def now(self) -> dict[str, float]:
        return {name: total / self.seconds for name, total in self.sums.items()} if self.seconds else {}


class Idleness:
    """One container's. `see` each sample, ask for the `stage` that is to be told, and say when it was `told`.

    Each change is told once; one that could not be is asked for again. Nobody is stopped whose warning did not arrive:
    the grace period counts from there. `inherited`: what an earlier process of the agent has told is not known.
    """

    def __init__(self, policy: IdlePolicy, *, devices: int = 0, inherited: bool = False) -> None:
        self.policy = policy
        self.limits = _limits(policy, devices)
        self._part_s = min(_PART_S, policy.after_s / 2)
        self._stage = None if inherited else IdleStage.ACTIVE
        self._warned_at = 0.0
        self._seen_at: float | None = None
        self._since: float | None = None
        self._part_began = 0.0
        self._part, self._idle = _Means(), _Means()
        self._last: dict[str, float] = {}  # of the last minute that was judged

    def see(self, use: Use, clock: float) -> None:
        """A new sample. One with an unknown part says nothing."""
        known = {name: value for name in self.limits if (value := use.get(name)) is not None}
        if len(known) < len(self.limits):
            return self.look(clock)
        if self._seen_at is None or clock - self._seen_at > UNKNOWN_S:
            self.begin_anew()
            self._seen_at = self._part_began = clock
            return None
        self._part.add(known, clock - self._seen_at)
        self._seen_at = clock
        return self._judge(clock) if clock - self._part_began >= self._part_s else None

    def look(self, clock: float) -> None:
        """Without a new sample: what has been unknown for too long is not idle."""
        if self._seen_at is not None and clock - self._seen_at > UNKNOWN_S:
            self.begin_anew()

    def begin_anew(self) -> None:
        """It was used, or nobody knows."""
        self._seen_at = self._since = None
        self._part, self._idle, self._last = _Means(), _Means(), {}

    def stage(self, clock: float) -> IdleStage | None:
        """What is to be told now. A stop only right after a minute that was idle too, never within one."""
        if self._since is None:
            return IdleStage.ACTIVE if self._stage is not IdleStage.ACTIVE else None
        if self._part_began != self._seen_at or clock - self._since < self.policy.after_s:
            return None
        if self._stage not in (IdleStage.WARNED, IdleStage.IDLE):
            return IdleStage.WARNED
        over = self._stage is IdleStage.WARNED and clock - self._warned_at >= self.policy.grace_s
        return IdleStage.IDLE if over else None

    def told(self, stage: IdleStage, clock: float) -> None:
        if stage is IdleStage.WARNED:
            self._warned_at = clock
        self._stage = stage

    @property
    def told_stage(self) -> IdleStage | None:
        return self._stage

    def idle_s(self, clock: float) -> float | None:
        return None if self._since is None else clock - self._since

    def stops_in_s(self, clock: float) -> float | None:
        """If nobody uses it; None while it is in use."""
        if self._since is None:
            return None
        if self._stage in (IdleStage.WARNED, IdleStage.IDLE):
            return max(0.0, self._warned_at + self.policy.grace_s - clock)
        return max(0.0, self._since + self.policy.after_s - clock) + self.policy.grace_s

    def low(self, cores: float | None) -> str:
        """`CPU 0.4 % of 2 cores (below 5 %)` and so on: means since it is idle, else of the last minute."""
        means = self._idle.now() if self._since is not None else self._last
        return ", ".join(_low(name, means[name], limit, cores) for name, limit in self.limits.items() if name in means)

    def _judge(self, clock: float) -> None:
        self._last = self._part.now()
        if self.limits and all(self._last[name] < limit for name, limit in self.limits.items()):
            self._since = self._part_began if self._since is None else self._since
            self._idle.add(self._last, self._part.seconds)
        else:
            self._since, self._idle = None, _Means()
        self._part, self._part_began = _Means(), clock


def use_of(stats: Stats, devices: int) -> Use:
    """As thresholds count it: the busiest of its devices, both directions of its network."""
    busy = [one.utilisation for one in stats.devices]
    known = [one for one in busy if one is not None]
    return {
        "cpu_percent": stats.cpu_percent,
        "device_percent": max(known) if known and len(known) == devices else None,
        "net_bps": None if stats.net_rx_s is None or stats.net_tx_s is None else stats.net_rx_s + stats.net_tx_s,
    }


def _limits(policy: IdlePolicy, devices: int) -> dict[str, float]:
    """Those that are given; of devices only where it has some."""
    given = {name: getattr(policy, name) for name in ("cpu_percent", "device_percent", "net_bps")}
    return {name: limit for name, limit in given.items() if limit is not None and (name != "device_percent" or devices)}


def _low(name: str, mean: float, limit: float, cores: float | None) -> str:
    below = "below" if mean < limit else "not below"
    if name == "net_bps":
        return f"network {rate(mean)} ({below} {rate(limit)})"
    if name == "device_percent":
        return f"devices {mean:.1f} % ({below} {limit:g} %)"
    of = f" of {cores:g} core{'' if cores == 1 else 's'}" if cores is not None else ""
    return f"CPU {mean:.1f} %{of} ({below} {limit:g} %)"


def warning(low: str, lasted: str, until: str, name: str, *, dry_run: bool) -> str:
    """The words before a stop; `until` is a time of day."""
    if dry_run:
        return f"{low} for {lasted}; it would be stopped at {until} unless it is used, but this is a dry run"
    return f"{low} for {lasted}; it is stopped at {until} unless it is used; `moor extend {name} 2h` keeps it"
