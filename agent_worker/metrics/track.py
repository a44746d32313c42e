"""One container or the node through its life: the last quarter of an hour, and the peaks of all of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from agent_worker.metrics.reading import Reading
from agent_worker.metrics.ring import Ring
from moorage.domain.stats import DeviceReading, Stats
from moorage.domain.usage import DeviceUsage, KernelUsage

SAMPLES = 180
_COUNTERS = {
    "cpu_us": "cpu",
    "io_read": "io_read_s",
    "io_write": "io_write_s",
    "net_rx": "net_rx_s",
    "net_tx": "net_tx_s",
}
_LEVELS = ("mem", "pids")
_ROW = ("at", "clock", *_LEVELS, *_COUNTERS)
_CLOCK = _ROW.index("clock")
_FIRST_COUNTER = len(_ROW) - len(_COUNTERS)
BYTES = len(_ROW) * 8 * SAMPLES
# Closer than this, a rate says more of the clock than of the container.
_SHORTEST_S = 0.05
# Of the time before it, a sample speaks for so much at most.
_LONGEST_S = 5.0

_Row = tuple[float | None, ...]


@dataclass(slots=True)
class _Level:
    """What goes up and down: its mean over time, and its highest value."""

    sum: float = 0.0
    seconds: float = 0.0
    peak: float | None = None

    def add(self, value: float | None, seconds: float) -> None:
        if value is None:
            return
        self.sum, self.seconds = self.sum + value * seconds, self.seconds + seconds
        self.peak = value if self.peak is None else max(self.peak, value)

    @property
    def mean(self) -> float | None:
        return self.sum / self.seconds if self.seconds else None


class Track:
    """Rates are by a monotonic `clock`: setting the node's time changes none."""

    def __init__(self) -> None:
        self._ring = Ring(width=len(_ROW), length=SAMPLES)
        self._cpu, self._mem, self._pids = _Level(), _Level(), _Level()
        self._devices: dict[str, tuple[_Level, _Level]] = {}
        self._reading = Reading()
        self._rates: dict[str, float | None] = dict.fromkeys(_COUNTERS.values())
        self.stats: Stats | None = None  # at the last sample

    def add(self, reading: Reading, *, at: float, clock: float, devices: Iterable[DeviceReading] = ()) -> None:
        row: _Row = (at, clock, *(getattr(reading, name) for name in _ROW[_CLOCK + 1 :]))
        before = self._ring.last()
        passed = (reading.age_s or 0.0) if before is None else clock - (before[_CLOCK] or 0.0)
        seconds = min(max(passed, _SHORTEST_S), _LONGEST_S)
        if before is None or passed >= _SHORTEST_S:
            self._ring.append(row)
            self._rates = _rates(before, row)
            self._cpu.add(self._rates["cpu"], seconds)
        self._mem.add(reading.mem, seconds)
        self._pids.add(reading.pids, seconds)
        self._reading, self.stats = reading, self._stats(reading, at, list(devices))
        for device in self.stats.devices:
            busy, mem = self._devices.setdefault(device.device_id, (_Level(), _Level()))
            busy.add(device.utilisation, seconds)
            mem.add(device.mem, seconds)

    def stats_at(self, clock: float, oldest_s: float) -> Stats | None:
        """The last sample's, unless that is older."""
        last = self._ring.last()
        return None if last is None or clock - (last[_CLOCK] or 0.0) > oldest_s else self.stats

    def history(self, since: float) -> list[dict[str, float | None]]:
        """Samples with a later time on the monotonic clock, the oldest first; the first ever has no rates."""
        rows: list[_Row | None] = [None, *self._ring.rows()]
        return [
            _point(before, row) for before, row in pairwise(rows) if row is not None and (row[_CLOCK] or 0.0) > since
        ]

    def usage(self, kernel_id: str, attempt: int) -> KernelUsage | None:
        """Of its life up to the last sample; None without one."""
        last, stats = self._reading, self.stats
        if stats is None or last.age_s is None:
            return None
        return KernelUsage(
            kernel_id,
            attempt,
            round(last.age_s, 3),
            cpu_ms=stats.cpu_ms,
            cpu_peak=_whole(self._highest(stats.cpu_ms, last.age_s)),
            mem_avg=_whole(self._mem.mean),
            mem_peak=stats.mem_peak,
            mem_used_peak=_whole(self._mem.peak),
            io_read=last.io_read,
            io_write=last.io_write,
            net_rx=last.net_rx,
            net_tx=last.net_tx,
            pids_peak=_whole(self._pids.peak),
            devices=[
                DeviceUsage(name, _tenth(busy.mean), _tenth(busy.peak), _whole(mem.peak))
                for name, (busy, mem) in sorted(self._devices.items())
            ],
        )

    def _highest(self, cpu_ms: int | None, age_s: float) -> float | None:
        """In millicores: of any time between two samples, or of the whole life where that is more."""
        average = None if cpu_ms is None or age_s < _SHORTEST_S else cpu_ms / age_s
        return max((one for one in (self._cpu.peak, average) if one is not None), default=None)

    def _stats(self, reading: Reading, at: float, devices: list[DeviceReading]) -> Stats:
        """The memory's peak is the kernel's own, else the largest sample."""
        return Stats(
            round(at, 3),
            None if reading.age_s is None else round(reading.age_s, 3),
            cpu_limit=reading.cpu_limit,
            cpu_ms=None if reading.cpu_us is None else reading.cpu_us // 1000,
            mem=reading.mem,
            mem_limit=reading.mem_limit,
            mem_peak=_whole(self._mem.peak) if reading.mem_peak is None else reading.mem_peak,
            io_read=reading.io_read,
            io_write=reading.io_write,
            net_rx=reading.net_rx,
            net_tx=reading.net_tx,
            pids=reading.pids,
            devices=devices,
            **self._rates,
        )


def _rates(before: _Row | None, row: _Row) -> dict[str, float | None]:
    """Millicores and bytes a second. A counter that went back has begun anew: its rate is unknown."""
    rates: dict[str, float | None] = dict.fromkeys(_COUNTERS.values())
    if before is None:
        return rates
    passed = (row[_CLOCK] or 0.0) - (before[_CLOCK] or 0.0)
    for place, name in enumerate(_COUNTERS.values(), _FIRST_COUNTER):
        earlier, now = before[place], row[place]
        if earlier is not None and now is not None and now >= earlier and passed > 0:
            rates[name] = round((now - earlier) / passed / (1000 if name == "cpu" else 1), 1)
    return rates


def _point(before: _Row | None, row: _Row) -> dict[str, float | None]:
    named = dict(zip(_ROW, row, strict=True))
    return {"at": named["at"], **{name: _whole(named[name]) for name in _LEVELS}, **_rates(before, row)}


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def _tenth(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
