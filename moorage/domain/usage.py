"""What a kernel used in its whole life, and what a session asked for in vain. None is unknown, and never 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from moorage.domain.resources import CPU, MEM, format_slot
from moorage.domain.stats import added

# Below these parts of what was asked, it is said; too short a life and too small a wish tell nothing.
_WASTED_PART = 0.25
_IDLE_DEVICE_PERCENT = 10.0
_TOO_SHORT_S = 60.0
_WORTH_A_WORD = {CPU: 1000, MEM: 1024**3}


@dataclass(frozen=True, slots=True)
class DeviceUsage:
    """Percent of the whole device, bytes of its memory; over the samples that were taken."""

    device_id: str
    utilisation: float | None = None
    utilisation_peak: float | None = None
    mem_peak: int | None = None


@dataclass(frozen=True, slots=True)
class KernelUsage:
    """One container's life as its node measured it. Cores in millicores, memory and traffic in bytes."""

    kernel_id: str
    attempt: int
    seconds: float  # of its life, up to the last sample
    cpu_ms: int | None = None  # processor time
    cpu_peak: int | None = None
    mem_avg: int | None = None
    mem_peak: int | None = None  # the kernel's own high-water mark where there is one: with page cache
    mem_used_peak: int | None = None  # the largest sample, without page cache
    io_read: int | None = None
    io_write: int | None = None
    net_rx: int | None = None
    net_tx: int | None = None
    pids_peak: int | None = None
    devices: list[DeviceUsage] = field(default_factory=list)


def summary(lives: Sequence[KernelUsage], asked: Mapping[str, int]) -> dict[str, Any] | None:
    """A session's use over its kernels and attempts that were measured; `asked` is what each kernel asked for.

    Averages and peaks are of the whole gang: as if all its kernels had run all the time.
    """
    if not lives:
        return None
    kernels = len({life.kernel_id for life in lives})
    seconds = sum(life.seconds for life in lives)
    cores, memory = added(life.cpu_ms for life in lives), added(_weighed(life) for life in lives)
    cpu = {
        "asked": asked.get(CPU, 0) * kernels,
        "average": _mean(cores, seconds, kernels),
        "peak": _peak(lives, "cpu_peak"),
        "total_ms": cores,
    }
    mem = {
        "asked": asked.get(MEM, 0) * kernels,
        "average": _mean(memory, seconds, kernels),
        "peak": _peak(lives, "mem_peak"),
        "peak_used": _peak(lives, "mem_used_peak"),
    }
    devices = [asdict(device) for life in lives for device in life.devices]
    return {
        "seconds": round(seconds, 1),
        "kernels": kernels,
        "attempts": len({life.attempt for life in lives}),
        "cpu": cpu,
        "mem": mem,
        "io": {"read_bytes": _sum(lives, "io_read"), "write_bytes": _sum(lives, "io_write")},
        "net": {"rx_bytes": _sum(lives, "net_rx"), "tx_bytes": _sum(lives, "net_tx")},
        "pids": {"peak": _peak(lives, "pids_peak")},
        "devices": devices,
        "waste": waste(seconds, cpu, mem, devices),
    }


def waste(
    seconds: float, cpu: Mapping[str, Any], mem: Mapping[str, Any], devices: Iterable[Mapping[str, Any]]
) -> list[str]:
    """In words what was asked for and hardly used. Memory by its peak, for a peak must fit."""
    if seconds < _TOO_SHORT_S:
        return []
    words = []
    if _is_wasted(CPU, cpu["average"], cpu["asked"]):
        words.append(f"asked {cpu['asked'] / 1000:g} cores, used {cpu['average'] / 1000:.2g} on average")
    if _is_wasted(MEM, mem["peak_used"], mem["asked"]):
        used = format_slot(MEM, mem["peak_used"])
        words.append(f"asked {format_slot(MEM, mem['asked'])} of memory, used {used} at most")
    for device in devices:
        busy = device["utilisation"]
        if busy is not None and busy < _IDLE_DEVICE_PERCENT:
            words.append(f"device {device['device_id']} was busy {busy:.0f} % of the time")
    return words


def _is_wasted(slot: str, used: float | None, asked: int) -> bool:
    return used is not None and asked >= _WORTH_A_WORD[slot] and used < _WASTED_PART * asked


def _weighed(life: KernelUsage) -> float | None:
    return None if life.mem_avg is None else life.mem_avg * life.seconds


def _mean(amount_s: float | None, seconds: float, kernels: int) -> int | None:
    return None if amount_s is None or seconds <= 0 else round(amount_s / seconds * kernels)


def _sum(lives: Iterable[KernelUsage], name: str) -> int | None:
    found: int | None = added(getattr(life, name) for life in lives)
    return found


def _peak(lives: Iterable[KernelUsage], name: str) -> int | None:
    """The kernels' peaks added; of several attempts of a kernel the highest counts."""
    of_kernel: dict[str, list[int | None]] = defaultdict(list)
    for life in lives:
        of_kernel[life.kernel_id].append(getattr(life, name))
    found: int | None = added(
        max((one for one in values if one is not None), default=None) for values in of_kernel.values()
    )
    return found
