"""Which Prometheus metrics there are, and what fills them. Base units: seconds, bytes, cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from api.exposition import Family
from api.measured import Answers
from moorage.db.gauges import Gauges
from moorage.domain.session import TERMINAL, SessionStatus
from moorage.domain.stats import DeviceReading, NodeStats, Stats

# Suffix → help, and how it is read. The same for nodes and containers.
_OF_STATS: Mapping[str, tuple[str, Callable[[Stats], float | None]]] = {
    "cpu_seconds_total": ("processor time used", lambda one: _part(one.cpu_ms, 1000)),
    "cpu_limit_cores": ("cores that may be used", lambda one: _part(one.cpu_limit, 1000)),
    "memory_bytes": ("memory used, without page cache", lambda one: one.mem),
    "memory_limit_bytes": ("memory that may be used", lambda one: one.mem_limit),
    "io_read_bytes_total": ("read from block devices", lambda one: one.io_read),
    "io_write_bytes_total": ("written to block devices", lambda one: one.io_write),
    "network_receive_bytes_total": ("received over the network", lambda one: one.net_rx),
    "network_transmit_bytes_total": ("sent over the network", lambda one: one.net_tx),
    "processes": ("processes and threads", lambda one: one.pids),
}
_OF_DEVICES: Mapping[str, tuple[str, Callable[[DeviceReading], float | None]]] = {
    "utilisation_ratio": ("part of the time that the device was busy", lambda one: _part(one.utilisation, 100)),
    "memory_bytes": ("memory of the device used", lambda one: one.mem),
    "memory_limit_bytes": ("memory of the device", lambda one: one.mem_total),
    "temperature_celsius": ("temperature of the device", lambda one: one.temperature_c),
    "power_watts": ("power that the device draws", lambda one: one.power_w),
}

_Whose = Mapping[tuple[str, int], Mapping[str, str]]


def control_plane(found: Gauges) -> Iterator[Family]:
    """The queue, what is offered, the nodes and sessions, as the database says."""
    waiting = Family("moorage_queue_sessions", "sessions that wait, by resource group")
    oldest = Family("moorage_queue_oldest_seconds", "how long the one that waits longest has waited")
    median = Family("moorage_queue_median_seconds", "how long half of those that wait have waited at least")
    for row in found.queue:
        waiting.add(row["waiting"], resource_group=row["resource_group"])
        oldest.add(row["oldest_s"], resource_group=row["resource_group"])
        median.add(row["median_s"], resource_group=row["resource_group"])
    capacity = Family(
        "moorage_slot_capacity", "what living nodes offer: cpu in millicores, mem in bytes, shares in 0.01"
    )
    used = Family("moorage_slot_used", "what sessions hold of it")
    for row in found.slots:
        capacity.add(row["capacity"], resource_group=row["resource_group"], slot=row["slot"])
        used.add(row["used"], resource_group=row["resource_group"], slot=row["slot"])
    sessions = Family("moorage_sessions", "live sessions by status")
    for status in SessionStatus:
        if status not in TERMINAL:
            sessions.add(found.sessions.get(status, 0), status=str(status))
    healthy = Family("moorage_device_healthy", "1 for a device that takes new sessions")
    for row in found.devices:
        labels = {name: row[name] for name in ("device", "slot", "model")}
        healthy.add(int(row["healthy"]), node=row["agent"], **labels)
    yield from (waiting, oldest, median, capacity, used, sessions, healthy)


def nodes(found: Gauges, answers: Answers) -> Iterator[Family]:
    """Which nodes there are, which of them answered, and what they and their devices do."""
    alive = Family("moorage_agent_alive", "1 for a node with heartbeats, 0 for a lost one")
    schedulable = Family("moorage_agent_schedulable", "1 for a node that takes new sessions")
    answered = Family("moorage_agent_answered", "1 for a node whose data plane answered this time")
    for row in found.agents:
        labels = {"node": row["id"], "resource_group": row["resource_group"]}
        alive.add(int(row["status"] == "ALIVE"), **labels)
        schedulable.add(int(row["schedulable"]), **labels)
        answered.add(int(row["id"] in answers.by_agent), **labels)
    of_nodes, of_devices = _families("moorage_node", _OF_STATS), _families("moorage_device", _OF_DEVICES)
    for agent_id, answer in answers.by_agent.items():
        _fill(of_nodes, _OF_STATS, answer.node, {"node": agent_id})
        for device in answer.devices:
            _fill(of_devices, _OF_DEVICES, device, {"node": agent_id, "device": device.device_id})
    yield from (alive, schedulable, answered, *of_nodes, *of_devices)


def containers(answers: Mapping[str, NodeStats], whose: _Whose) -> Iterator[Family]:
    """Each container, and the devices that it holds; one whose session the database doesn't know is left out."""
    of_containers = _families("moorage_container", _OF_STATS)
    peak = Family("moorage_container_memory_peak_bytes", "most memory used so far, by the kernel's count")
    of_devices = _families("moorage_container_device", _OF_DEVICES)
    for agent_id, answer in answers.items():
        for kernel in answer.kernels:
            labels = whose.get((kernel.kernel_id, kernel.attempt))
            if labels is None or kernel.stats is None:
                continue
            known = {**labels, "node": agent_id}
            _fill(of_containers, _OF_STATS, kernel.stats, known)
            peak.add(kernel.stats.mem_peak, **known)
            for device in kernel.stats.devices:
                _fill(of_devices, _OF_DEVICES, device, {**known, "device": device.device_id})
    yield from (*of_containers, peak, *of_devices)


def _families(prefix: str, table: Mapping[str, tuple[str, Callable[..., float | None]]]) -> list[Family]:
    return [Family(f"{prefix}_{suffix}", help) for suffix, (help, _) in table.items()]


def _fill(
    families: list[Family],
    table: Mapping[str, tuple[str, Callable[..., float | None]]],
    measured: Stats | DeviceReading | None,
    labels: Mapping[str, str],
) -> None:
    if measured is None:
        return
    for family, (_, value) in zip(families, table.values(), strict=True):
        family.add(value(measured), **labels)


def _part(value: float | None, of: int) -> float | None:
    return None if value is None else value / of
