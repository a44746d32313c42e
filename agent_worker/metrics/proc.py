"""/proc: a container's network and age, and the node as a whole. `root` is another one in tests."""

from __future__ import annotations

import os
import time

from agent_worker.metrics.files import number, text_of
from agent_worker.metrics.reading import Reading

_TICKS = os.sysconf("SC_CLK_TCK")
_SECTOR = 512  # of /proc/diskstats, whatever the disk's own is
# Ends of what runs here; what they carry is counted where it leaves the node.
_INNER = ("lo", "veth", "docker", "br-", "ifb", "virbr", "vxlan")


def network(text: str | None, *, without: tuple[str, ...] = ("lo",)) -> tuple[int | None, int | None]:
    """(received, sent) in bytes over all interfaces of /proc/net/dev but those that begin so."""
    if text is None:
        return None, None
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(":")
        values = counters.split()
        if len(values) >= 9 and not name.strip().startswith(without):
            received, sent = received + int(values[0]), sent + int(values[8])
    return received, sent


def network_of(pid: int, *, root: str = "") -> tuple[int | None, int | None]:
    """Of the namespace that the process is in."""
    return network(text_of(f"{root}/proc/{pid}/net/dev"))


def began(stat: str | None) -> float | None:
    """When a process began, by /proc/<pid>/stat, in seconds since the machine did."""
    fields = (stat or "").rpartition(")")[2].split()  # a program's name may hold anything
    ticks = number(fields[19]) if len(fields) > 19 else None
    return None if ticks is None else ticks / _TICKS


def since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def node(*, root: str = "") -> Reading:
    """The whole machine: its processors, memory, disks, and the interfaces that lead out of it."""
    cpu_us, processors = _processors(text_of(f"{root}/proc/stat"))
    total, free = (_kib(text_of(f"{root}/proc/meminfo"), name) for name in ("MemTotal:", "MemAvailable:"))
    io_read, io_write = _disks(text_of(f"{root}/proc/diskstats"), root=root)
    received, sent = network(text_of(f"{root}/proc/net/dev"), without=_INNER)
    return Reading(
        age_s=since_boot(),
        cpu_us=cpu_us,
        cpu_limit=processors * 1000 or None,
        mem=None if total is None or free is None else total - free,
        mem_limit=total,
        io_read=io_read,
        io_write=io_write,
        net_rx=received,
        net_tx=sent,
        pids=_processes(text_of(f"{root}/proc/loadavg")),
    )


def _processors(stat: str | None) -> tuple[int | None, int]:
    """(busy microseconds of all, how many there are). Guests are counted in user time already."""
    lines = [line.split() for line in (stat or "").splitlines() if line.startswith("cpu")]
    if not lines:
        return None, 0
    user, nice, system, _, _, irq, soft = (int(word) for word in lines[0][1:8])
    return (user + nice + system + irq + soft) * 1_000_000 // _TICKS, len(lines) - 1


def _kib(meminfo: str | None, name: str) -> int | None:
    for line in (meminfo or "").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return None


def _disks(diskstats: str | None, *, root: str) -> tuple[int | None, int | None]:
    """(read, written) in bytes by whole disks: partitions and what lies on top of disks would count twice."""
    if diskstats is None:
        return None, None
    read = written = 0
    for line in diskstats.splitlines():
        fields = line.split()
        if len(fields) >= 10 and os.path.exists(f"{root}/sys/block/{fields[2]}/device"):  # noqa: PTH110 (cheaper)
            read, written = read + int(fields[5]) * _SECTOR, written + int(fields[9]) * _SECTOR
    return read, written


def _processes(loadavg: str | None) -> int | None:
    """Processes and their threads, as a group's `pids` counts."""
    words = (loadavg or "").split()
    return number(words[3].partition("/")[2]) if len(words) > 3 else None
