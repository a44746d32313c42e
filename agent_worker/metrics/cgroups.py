"""Control groups, version 1 and 2 and both at once: where a container's are, and what stands in them."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agent_worker.metrics.files import field_of, number, number_of, text_of
from agent_worker.metrics.reading import Reading

_CONTROLLERS = ("cpu", "cpuacct", "memory", "blkio", "pids")
# Version 1 says "no limit" by the largest multiple of a page.
_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Mount:
    """A hierarchy as this process sees it: `root` of it lies at `point`."""

    point: str
    root: str


@dataclass(frozen=True, slots=True)
class Mounts:
    """By controller those of version 1; a controller without one is in the `unified` hierarchy."""

    v1: Mapping[str, Mount]
    unified: Mount | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A container's folders by controller; `v2` holds all controllers that have none of their own."""

    v1: Mapping[str, str]
    v2: str | None = None


def mounts(mountinfo: str) -> Mounts:
    """From /proc/self/mountinfo; of a hierarchy that is mounted twice, the widest view."""
    v1: dict[str, Mount] = {}
    unified: Mount | None = None
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        where, what = left.split(), right.split()
        if len(where) < 5 or len(what) < 3:
            continue
        mount = Mount(point=where[4], root=where[3])
        if what[0] == "cgroup2":
            unified = _wider(unified, mount)
        elif what[0] == "cgroup":
            for controller in set(what[2].split(",")) & set(_CONTROLLERS):
                v1[controller] = _wider(v1.get(controller), mount)
    return Mounts(v1, unified)


def group_of(membership: str, container_id: str, known: Mounts) -> Group:
    """From /proc/<pid>/cgroup. A container may have moved its first process into a group below its own."""
    v1: dict[str, str] = {}
    v2: str | None = None
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        path = _up_to(container_id, path)
        if not controllers:
            v2 = _folder(known.unified, path)
        for controller in controllers.split(","):
            folder = _folder(known.v1.get(controller), path)
            if folder is not None:
                v1[controller] = folder
    return Group(v1, v2)


def read(group: Group) -> Reading | None:
    """What stands in the group's files; None if it is gone."""
    found = Reading()
    if group.v2 is not None:
        found = _read_v2(group.v2)
    if group.v1:
        found = _read_v1(group.v1, found)
    return None if found.cpu_us is None and found.mem is None else found


def _read_v2(folder: str) -> Reading:
    stat = text_of(f"{folder}/memory.stat")
    io_read, io_write = _io_v2(text_of(f"{folder}/io.stat"))
    return Reading(
        cpu_us=field_of(text_of(f"{folder}/cpu.stat"), "usage_usec"),
        cpu_limit=_limit(*_two(text_of(f"{folder}/cpu.max"))),
        mem=_without_cache(number_of(f"{folder}/memory.current"), field_of(stat, "inactive_file")),
        mem_limit=number_of(f"{folder}/memory.max"),
        mem_peak=number_of(f"{folder}/memory.peak"),
        io_read=io_read,
        io_write=io_write,
        pids=number_of(f"{folder}/pids.current"),
    )


def _read_v1(folders: Mapping[str, str], found: Reading) -> Reading:
    """On top of what the unified hierarchy said: each controller is in one of the two."""
    if folder := folders.get("cpuacct"):
        ns = number_of(f"{folder}/cpuacct.usage")
        found = replace(found, cpu_us=None if ns is None else ns // 1000)
    if folder := folders.get("cpu"):
        quota, period = number_of(f"{folder}/cpu.cfs_quota_us"), number_of(f"{folder}/cpu.cfs_period_us")
        found = replace(found, cpu_limit=_limit(quota, period))
    if folder := folders.get("memory"):
        stat, limit = text_of(f"{folder}/memory.stat"), number_of(f"{folder}/memory.limit_in_bytes")
        found = replace(
            found,
            mem=_without_cache(number_of(f"{folder}/memory.usage_in_bytes"), field_of(stat, "total_inactive_file")),
            mem_limit=None if limit is None or limit > _NO_LIMIT else limit,
            mem_peak=number_of(f"{folder}/memory.max_usage_in_bytes"),
        )
    if folder := folders.get("blkio"):
        io_read, io_write = _io_v1(text_of(f"{folder}/blkio.throttle.io_service_bytes_recursive"))
        found = replace(found, io_read=io_read, io_write=io_write)
    if folder := folders.get("pids"):
        found = replace(found, pids=number_of(f"{folder}/pids.current"))
    return found


def _without_cache(usage: int | None, inactive_file: int | None) -> int | None:
    """As `docker stats` counts: what the kernel can drop at once is nobody's use."""
    if usage is None or inactive_file is None:
        return usage
    return max(0, usage - inactive_file)


def _limit(quota_us: int | None, period_us: int | None) -> int | None:
    return None if quota_us is None or not period_us else quota_us * 1000 // period_us


def _two(text: str | None) -> tuple[int | None, int | None]:
    first, _, second = (text or "").strip().partition(" ")
    return number(first), number(second)


def _io_v2(text: str | None) -> tuple[int | None, int | None]:
    """Lines `8:0 rbytes=1 wbytes=2 …`. An empty file is a group that has not read nor written yet."""
    if text is None:
        return None, None
    words = [word.partition("=") for line in text.splitlines() for word in line.split()[1:]]
    return _sum(words, "rbytes"), _sum(words, "wbytes")


def _io_v1(text: str | None) -> tuple[int | None, int | None]:
    """Lines `8:0 Read 1`, and at the end `Total 3`."""
    if text is None:
        return None, None
    words = [(line.split()[1], "", line.split()[2]) for line in text.splitlines() if len(line.split()) == 3]
    return _sum(words, "Read"), _sum(words, "Write")


def _sum(words: list[tuple[str, str, str]], name: str) -> int:
    return sum(number(value) or 0 for found, _, value in words if found == name)


def _wider(known: Mount | None, found: Mount) -> Mount:
    return found if known is None or len(found.root) < len(known.root) else known


def _up_to(container_id: str, path: str) -> str:
    """The path as far as the part that names the container."""
    parts = path.split("/")
    named = next((n for n, part in enumerate(parts) if container_id in part), len(parts) - 1)
    return "/".join(parts[: named + 1])


def _folder(mount: Mount | None, path: str) -> str | None:
    """Where the group lies here; None if it is outside of what is mounted."""
    if mount is None or path.startswith("/.."):
        return None
    inside = posixpath.relpath(path, mount.root)
    return None if inside.startswith("..") else posixpath.normpath(posixpath.join(mount.point, inside))
