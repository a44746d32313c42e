"""What a container, a node or a device uses at one moment. None is unknown, and never 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """An accelerator now. Utilisation in percent of the whole device, whoever shares it; memory in bytes."""

    device_id: str
    utilisation: float | None = None
    mem: int | None = None
    mem_total: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None


@dataclass(frozen=True, slots=True)
class Stats:
    """Cores in millicores, memory without page cache, counters since the start, `…_s` rates in bytes a second."""

    at: float  # seconds since 1970, the node's clock
    age_s: float | None = None
    cpu: float | None = None
    cpu_limit: int | None = None
    cpu_ms: int | None = None
    mem: int | None = None
    mem_limit: int | None = None
    mem_peak: int | None = None  # the kernel's own high-water mark counts page cache
    io_read: int | None = None
    io_write: int | None = None
    io_read_s: float | None = None
    io_write_s: float | None = None
    net_rx: int | None = None
    net_tx: int | None = None
    net_rx_s: float | None = None
    net_tx_s: float | None = None
    pids: int | None = None
    devices: list[DeviceReading] = field(default_factory=list)

    @property
    def cpu_percent(self) -> float | None:
        """Of what the container may use."""
        return percent(self.cpu, self.cpu_limit)

    @property
    def mem_percent(self) -> float | None:
        return percent(self.mem, self.mem_limit)


@dataclass(frozen=True, slots=True)
class KernelStats:
    """A kernel as its node sees it. `history`: samples with `at`, levels and rates, the oldest first."""

    session_id: str
    kernel_id: str
    attempt: int
    stats: Stats | None = None
    history: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class KernelIdle:
    """How idle a kernel with an idle policy is: `idle_s` None while it is in use, or nobody knows."""

    session_id: str
    kernel_id: str
    attempt: int
    stage: str = ""  # the last IdleStage that its workflow was told
    low: str = ""  # in words with numbers
    idle_s: float | None = None
    stops_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeStats:
    """All that a node measures at one moment."""

    node: Stats | None = None
    devices: list[DeviceReading] = field(default_factory=list)
    kernels: list[KernelStats] = field(default_factory=list)
    idle: list[KernelIdle] = field(default_factory=list)


_NOT_ADDED = {"at", "age_s", "devices"}
_ADDED = tuple(one.name for one in fields(Stats) if one.name not in _NOT_ADDED)


def percent(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else round(100 * part / whole, 1)


def total(parts: Sequence[Stats | None]) -> Stats | None:
    """The sum of a gang's kernels. A sum with an unknown part is unknown; of nothing there is none."""
    known = [one for one in parts if one is not None]
    if not known or len(known) < len(parts):
        return None
    sums = {name: added(getattr(one, name) for one in known) for name in _ADDED}
    return Stats(
        min(one.at for one in known),
        min((one.age_s for one in known if one.age_s is not None), default=None),
        **sums,
        devices=[device for one in known for device in one.devices],
    )


def added(values: Iterable[Any]) -> Any:
    """None if any is None."""
    found = list(values)
    return None if None in found else sum(found)


def node_stats_of(plain: Mapping[str, Any]) -> NodeStats:
    """As a node sent it; what a newer one adds is passed over."""
    return NodeStats(
        _stats_of(plain.get("node")),
        [DeviceReading(**_known(DeviceReading, one)) for one in plain.get("devices", ())],
        [
            KernelStats(**_known(KernelStats, one) | {"stats": _stats_of(one.get("stats"))})
            for one in plain.get("kernels", ())
        ],
        [KernelIdle(**_known(KernelIdle, one)) for one in plain.get("idle", ())],
    )


def _stats_of(plain: Mapping[str, Any] | None) -> Stats | None:
    if plain is None:
        return None
    devices = [DeviceReading(**_known(DeviceReading, one)) for one in plain.get("devices", ())]
    return Stats(**_known(Stats, plain) | {"devices": devices})


def _known(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in plain.items() if name in names}
