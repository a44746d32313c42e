"""Made-up clusters and queues of every kind, and what must hold of any decision about them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from hypothesis import strategies as st

from moorage.scheduler.snapshot import (
    Changes,
    ClusterMode,
    Decisions,
    DeviceState,
    Head,
    NodeState,
    Owner,
    Policy,
    PreemptionMode,
    RunningKernel,
    RunningSession,
    Scope,
    Snapshot,
    TenantState,
    WaitingKernel,
    WaitingSession,
)
from tests.support.builders import GIB

NOW = 10_000.0
ORDER_NAMES = ("fifo", "lifo", "priority", "drf", "fair-share")

_owners = st.builds(
    lambda user, project: Owner(f"u{user}", f"p{project}", f"d{project % 2}", f"u{user}"),
    st.integers(0, 2),
    st.integers(0, 2),
)
_requests = st.builds(
    lambda cpu, mem, kind, amount: {"cpu": cpu * 1000, "mem": mem * GIB, **_extra(kind, amount)},
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(("", "", "cuda.device", "cuda.shares", "cuda.1g-mig")),
    st.integers(1, 3),
)


def _extra(kind: str, amount: int) -> dict[str, int]:
    if kind == "cuda.shares":
        return {kind: amount * 60 - 20}  # 40, 100 or 160 hundredths
    return {kind: amount} if kind else {}


@st.composite
def snapshots(draw: st.DrawFn, *, with_devices: bool = True) -> Snapshot:
    """A group with running sessions that hold what the nodes say is used, and a queue."""
    empty = [draw(_node(f"n{index}", with_devices=with_devices)) for index in range(draw(st.integers(0, 5)))]
    count = draw(st.integers(0, 10))
    waiting = tuple(draw(_waiting(f"s{index:02}")) for index in range(count))
    tenants = tuple(draw(st.lists(_tenants, max_size=3, unique_by=lambda one: (one.scope, one.name))))
    return fill(empty, draw(st.lists(_running, max_size=6)), Snapshot(NOW, (), waiting, (), tenants))


@st.composite
def _node(draw: st.DrawFn, agent_id: str, *, with_devices: bool) -> NodeState:
    capacity = {"cpu": draw(st.integers(1, 8)) * 1000, "mem": draw(st.integers(1, 8)) * GIB}
    kind = draw(st.sampled_from(("", "cuda.device", "cuda.shares", "cuda.1g-mig"))) if with_devices else ""
    devices: tuple[DeviceState, ...] = ()
    if kind:
        total = 100 if kind == "cuda.shares" else 1
        count = draw(st.integers(1, 4))
        devices = tuple(
            DeviceState(f"{agent_id}-g{index}", kind, total, 0, index % 2, draw(st.integers(0, 9)) > 0)
            for index in range(count)
        )
        capacity[kind] = total * count
    images = frozenset({"img"}) if draw(st.booleans()) else frozenset()
    return NodeState(agent_id, capacity, dict.fromkeys(capacity, 0), devices=devices, images=images)


@st.composite
def _waiting(draw: st.DrawFn, session_id: str) -> WaitingSession:
    requests = [draw(_requests)] * draw(st.sampled_from((1, 1, 1, 2, 3)))
    if len(requests) > 1 and draw(st.booleans()):
        requests = [*requests[1:], draw(_requests)]
    return WaitingSession(
        session_id,
        tuple(WaitingKernel(f"k-{session_id}-{index}", request) for index, request in enumerate(requests)),
        priority=draw(st.sampled_from((10, 10, 20))),
        submitted=float(draw(st.integers(0, 5))),
        avoid=frozenset({"n0"}) if draw(st.integers(0, 4)) == 0 else frozenset(),
        owner=draw(_owners),
        image=draw(st.sampled_from(("", "img"))),
        cluster_mode=draw(st.sampled_from(ClusterMode)),
        designated=frozenset({"n1", "n2"}) if draw(st.integers(0, 5)) == 0 else frozenset(),
        not_before=draw(st.sampled_from((0.0, 0.0, 0.0, NOW + 5))),
        unmet=draw(st.sampled_from(((), (), (), ("other",)))),
        time_limit_s=draw(st.sampled_from((None, 60.0, 600.0))),
        skips=draw(st.sampled_from((0, 0, 30))),
        job_priority=draw(st.integers(0, 2)),
    )


_running = st.builds(
    lambda request, owner, row, age, limit, job, leaving: (request, owner, row, age, limit, job, leaving),
    _requests,
    _owners,
    st.integers(0, 4),
    st.integers(0, 500),
    st.sampled_from((None, 100.0, 600.0)),
    st.integers(0, 1),
    st.booleans(),
)
_tenants = st.builds(
    lambda scope, number, most, cpu, weight, used: TenantState(
        scope,
        f"{scope.value[0]}{number}" if scope is not Scope.KEYPAIR else f"u{number}",
        max_sessions=most,
        max_slots={} if cpu is None else {"cpu": cpu * 1000},
        weight=weight,
        decayed={"cpu": used * 1e6},
    ),
    st.sampled_from(Scope),
    st.integers(0, 2),
    st.sampled_from((None, None, 0, 1, 2)),
    st.sampled_from((None, None, 2, 5)),
    st.sampled_from((1.0, 2.0)),
    st.integers(0, 3),
)

policies = st.builds(
    Policy,
    order=st.sampled_from(ORDER_NAMES),
    selector=st.sampled_from(("concentrated", "dispersed", "roundrobin")),
    head=st.sampled_from(Head),
    ageing_per_hour=st.sampled_from((0.0, 1.0)),
    preemption=st.sampled_from((PreemptionMode.OFF, PreemptionMode.REQUEUE)),
)


def fill(empty: list[NodeState], wishes: list[tuple], snapshot: Snapshot) -> Snapshot:  # type: ignore[type-arg]
    """The nodes with those of the wished running sessions that fit, device by device."""
    nodes = {node.agent_id: node for node in empty}
    running: list[RunningSession] = []
    for index, (request, owner, row, age, limit, job, leaving) in enumerate(wishes):
        agent_id = f"n{row}"
        devices = _free_devices(nodes[agent_id], request) if agent_id in nodes else None
        if devices is None:
            continue
        kernel = RunningKernel(f"k-r{index}", agent_id, request, devices)
        nodes[agent_id] = with_use(nodes[agent_id], request, devices, 1)
        running.append(
            RunningSession(
                f"r{index}", (kernel,), NOW - age, owner, job_priority=job, time_limit_s=limit, leaving=leaving
            )
        )
    return replace(snapshot, nodes=tuple(nodes.values()), running=tuple(running))


def _free_devices(node: NodeState, request: dict[str, int]) -> dict[str, int] | None:
    if any(node.capacity.get(slot, 0) - node.used.get(slot, 0) < amount for slot, amount in request.items()):
        return None
    given: dict[str, int] = {}
    for slot, amount in request.items():
        if slot in ("cpu", "mem"):
            continue
        missing = amount
        for device in node.devices:
            if missing and device.healthy and device.total - device.used == device.total:
                given[device.device_id] = min(missing, device.total)
                missing -= given[device.device_id]
        if missing:
            return None
    return given


def with_use(node: NodeState, slots: dict[str, int], devices: dict[str, int], sign: int) -> NodeState:
    used = {slot: node.used.get(slot, 0) + sign * slots.get(slot, 0) for slot in node.capacity}
    found = tuple(replace(one, used=one.used + sign * devices.get(one.device_id, 0)) for one in node.devices)
    return replace(node, used=used, devices=found)


def started(snapshot: Snapshot, decisions: Decisions) -> Changes:
    """What is different once these placements run."""
    nodes = {node.agent_id: node for node in snapshot.nodes}
    sessions = {session.session_id: session for session in snapshot.waiting}
    touched: set[str] = set()
    running = []
    for placement in decisions.placements:
        session = sessions[placement.session_id]
        kernels = []
        for kernel in session.kernels:
            agent_id, devices = placement.kernels[kernel.kernel_id], placement.devices.get(kernel.kernel_id, {})
            nodes[agent_id] = with_use(nodes[agent_id], kernel.slots, dict(devices), 1)
            touched.add(agent_id)
            kernels.append(RunningKernel(kernel.kernel_id, agent_id, kernel.slots, devices))
        running.append(
            RunningSession(
                session.session_id,
                tuple(kernels),
                snapshot.now,
                session.owner,
                session.priority,
                session.job_priority,
                session.preemptible,
                session.time_limit_s,
            )
        )
    gone = tuple(one.session_id for one in decisions.placements)
    changed = tuple(nodes[agent_id] for agent_id in sorted(touched))
    return Changes(nodes=changed, running=tuple(running), removed_waiting=gone, cursor=decisions.cursor)


def ended(snapshot: Snapshot, session_ids: list[str]) -> Changes:
    nodes = {node.agent_id: node for node in snapshot.nodes}
    touched: set[str] = set()
    for session in snapshot.running:
        if session.session_id in session_ids:
            for kernel in session.kernels:
                nodes[kernel.agent_id] = with_use(nodes[kernel.agent_id], kernel.slots, dict(kernel.devices), -1)
                touched.add(kernel.agent_id)
    changed = tuple(nodes[agent_id] for agent_id in sorted(touched))
    return Changes(nodes=changed, removed_running=tuple(session_ids))


def after(snapshot: Snapshot, changes: Changes) -> Snapshot:
    """The snapshot that a cold reader would see after the changes."""

    def merged(old: tuple, new: tuple, gone: tuple[str, ...], key: str) -> tuple:  # type: ignore[type-arg]
        rows = {getattr(one, key): one for one in old if getattr(one, key) not in gone}
        rows |= {getattr(one, key): one for one in new}
        return tuple(rows.values())

    return replace(
        snapshot,
        nodes=merged(snapshot.nodes, changes.nodes, changes.removed_nodes, "agent_id"),
        waiting=merged(snapshot.waiting, changes.waiting, changes.removed_waiting, "session_id"),
        running=merged(snapshot.running, changes.running, changes.removed_running, "session_id"),
        cursor=snapshot.cursor if changes.cursor is None else changes.cursor,
    )


def assert_within_capacity(snapshot: Snapshot, decisions: Decisions) -> None:
    """No node holds more than it has, no device more than there is of it, and each amount has its devices."""
    nodes = {node.agent_id: node for node in snapshot.nodes}
    sessions = {session.session_id: session for session in snapshot.waiting}
    use: dict[tuple[str, str], int] = defaultdict(int)
    device_use: dict[tuple[str, str], int] = defaultdict(int)
    for placement in decisions.placements:
        session = sessions[placement.session_id]
        assert set(placement.kernels) == {kernel.kernel_id for kernel in session.kernels}
        for kernel in session.kernels:
            node = nodes[placement.kernels[kernel.kernel_id]]
            devices = {device.device_id: device for device in node.devices}
            given = placement.devices.get(kernel.kernel_id, {})
            for slot, amount in kernel.slots.items():
                use[node.agent_id, slot] += amount
                of_slot = {one: some for one, some in given.items() if devices[one].slot == slot}
                if any(device.slot == slot for device in node.devices):
                    assert sum(of_slot.values()) == amount
                    whole = [some for one, some in of_slot.items() if some == devices[one].total]
                    assert len(of_slot) - len(whole) <= 1  # at most one device is given in part
            for device_id, amount in given.items():
                assert devices[device_id].healthy
                device_use[node.agent_id, device_id] += amount
    for node in snapshot.nodes:
        for slot, capacity in node.capacity.items():
            assert use[node.agent_id, slot] == 0 or node.used.get(slot, 0) + use[node.agent_id, slot] <= capacity
        for device in node.devices:
            assert device.used + device_use[node.agent_id, device.device_id] <= device.total


def comparable(decisions: Decisions) -> tuple[object, ...]:
    """All of a decision but the words of refusals and the order of their rows."""
    return (
        decisions.placements,
        sorted((one.session_id, one.cause) for one in decisions.refusals),
        decisions.preemptions,
        decisions.reservations,
        decisions.skipped,
        decisions.cursor,
    )
