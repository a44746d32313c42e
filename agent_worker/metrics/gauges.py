"""Reads many containers from the kernel's files, in one thread: no question to Docker once a container is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent_worker.metrics import cgroups, proc
from agent_worker.metrics.files import text_of
from agent_worker.metrics.reading import Reading, Readings


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a container's files are; `began` in seconds since the machine did."""

    pid: int
    began: float | None
    group: cgroups.Group


class Gauges:
    """`process` answers a container's first process, or None; it is asked once for each container's life."""

    def __init__(self, process: Callable[[str], int | None], *, root: str = "") -> None:
        self._process = process
        self._root = root
        self._mounts = cgroups.mounts(text_of(f"{root}/proc/self/mountinfo") or "")
        self._places: dict[str, _Place] = {}

    def read(self, container_ids: Iterable[str]) -> Readings:
        """Blocks for some 0.2 ms a container. Those that are gone are left out, and forgotten."""
        found = {name: reading for name in container_ids if (reading := self._read(name)) is not None}
        return Readings(proc.node(root=self._root), found)

    def forget(self, container_id: str) -> None:
        self._places.pop(container_id, None)

    def _read(self, container_id: str) -> Reading | None:
        place = self._places.get(container_id) or self._find(container_id)
        if place is None:
            return None
        # Before the group: while that is there, the process is the container's, and no later one of its number.
        received, sent = proc.network_of(place.pid, root=self._root)
        reading = cgroups.read(place.group)
        if reading is None:
            self.forget(container_id)
            return None
        age_s = None if place.began is None else proc.since_boot() - place.began
        return replace(reading, age_s=age_s, net_rx=received, net_tx=sent)

    def _find(self, container_id: str) -> _Place | None:
        pid = self._process(container_id)
        membership = None if pid is None else text_of(f"{self._root}/proc/{pid}/cgroup")
        if pid is None or membership is None:
            return None
        began = proc.began(text_of(f"{self._root}/proc/{pid}/stat"))
        place = _Place(pid, began, cgroups.group_of(membership, container_id, self._mounts))
        self._places[container_id] = place
        return place
