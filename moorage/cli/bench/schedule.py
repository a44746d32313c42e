"""`moor bench schedule`: how long a pass takes on a made-up cluster. One core, fixed seed; the last line is JSON."""

from __future__ import annotations

import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.scheduler.decide import decide
from moorage.scheduler.explain import explain
from moorage.scheduler.order import ORDERS
from moorage.scheduler.planner import Planner
from moorage.scheduler.snapshot import (
    Changes,
    Decisions,
    NodeState,
    Owner,
    Policy,
    RunningKernel,
    RunningSession,
    Snapshot,
    WaitingKernel,
    WaitingSession,
)

_SEED = 20260101
_GIB = 1024**3
_NOW = 1_000_000.0
_OTHER_SLOTS = ("cuda.shares", "rocm.device", "tpu.device", "ipu.device", "nvme.device")


class Case(StrEnum):
    """What is measured: a busy cluster, an empty one to fill, equal nodes with small sessions, one large gang."""

    BUSY = "busy"
    FILL = "fill"
    EQUAL = "equal"
    GANG = "gang"


def schedule(
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the made-up cluster.")] = 10_000,
    waiting: Annotated[int, typer.Option(min=1, help="Waiting sessions.")] = 100_000,
    policy: Annotated[str, typer.Option(help="Order: fifo, lifo, priority, drf or fair-share.")] = "fifo",
    selector: Annotated[str, typer.Option(help="concentrated, dispersed or roundrobin.")] = "concentrated",
    case: Annotated[
        Case, typer.Option(help="busy: 90 % used; fill: empty; equal: equal nodes; gang: 512 kernels.")
    ] = Case.BUSY,
    warm: Annotated[
        bool, typer.Option(help="Also passes after 100 came and 100 ended, and `why` of one session.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Passes measured; the median is told.")] = 3,
) -> None:
    """A scheduling pass on a made-up cluster: 8 slots, nodes of 16 to 128 cores, a third with 4 or 8 GPUs."""
    if policy not in ORDERS:
        raise typer.BadParameter(f"{policy} is no order; there are {', '.join(ORDERS)}")
    snapshot = _CASES[case](nodes, waiting)
    rules = Policy(policy, selector)
    decisions = decide(snapshot, rules)
    _check(snapshot, decisions)
    seconds, cpu_seconds = _median(lambda: decide(snapshot, rules), rounds)
    result: dict[str, Any] = {
        "nodes": len(snapshot.nodes),
        "waiting": len(snapshot.waiting),
        "policy": policy,
        "case": case.value,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 4),  # the same passes by processor time, for machines that others use too
        "placed": len(decisions.placements),
        "placements_per_s": round(len(decisions.placements) / seconds),
    }
    if warm:
        result |= _warm(snapshot, rules, max(rounds, 10))
    show.note(f"{len(snapshot.running)} sessions run, {len(decisions.refusals)} were told why they wait")
    print(json.dumps(result))


def busy(nodes: int, waiting: int) -> Snapshot:
    """A cluster that is 90 % used by running sessions, and a queue of 1,000 users in 100 projects and 10 domains."""
    chance = random.Random(_SEED)  # noqa: S311 - made-up load, not a secret
    empty = [_node(index, chance) for index in range(nodes)]
    running: list[RunningSession] = []
    full = [_used(node, running, chance) for node in empty]
    return Snapshot(_NOW, tuple(full), tuple(_waiting(index, chance) for index in range(waiting)), tuple(running))


def fill(nodes: int, waiting: int) -> Snapshot:
    """The same nodes and queue with nothing on them."""
    chance = random.Random(_SEED)  # noqa: S311
    empty = tuple(_node(index, chance) for index in range(nodes))
    return Snapshot(_NOW, empty, tuple(_waiting(index, chance) for index in range(waiting)))


def equal(nodes: int, waiting: int) -> Snapshot:
    """Nodes of 16 cores, 128 GiB and 8 GPUs; sessions of 1, 2 or 4 cores, 4 GiB each core, 0, 0, 1, 1 or 2 GPUs."""
    chance = random.Random(_SEED)  # noqa: S311
    offer = {"cpu": 16_000, "mem": 128 * _GIB, "cuda.device": 8}
    sessions = []
    for index in range(waiting):
        cores, gpus = chance.choice((1, 2, 4)), chance.choice((0, 0, 1, 1, 2))
        slots = {"cpu": cores * 1000, "mem": cores * 4 * _GIB, "cuda.device": gpus}
        sessions.append(_session(index, (slots,), Owner(f"u{index % 100:03}", "p0", "d0", f"u{index % 100:03}")))
    return Snapshot(_NOW, tuple(NodeState(f"n{index:05}", offer, {}) for index in range(nodes)), tuple(sessions))


def gang(nodes: int, waiting: int) -> Snapshot:
    """One session of 512 kernels over the nodes of `fill`."""
    slots = {"cpu": 8000, "mem": 16 * _GIB}
    return replace(fill(nodes, 1), waiting=(_session(0, (slots,) * 512, Owner("u0", "p0", "d0", "u0")),))


_CASES: dict[Case, Callable[[int, int], Snapshot]] = {
    Case.BUSY: busy,
    Case.FILL: fill,
    Case.EQUAL: equal,
    Case.GANG: gang,
}


def _node(index: int, chance: random.Random) -> NodeState:
    cores = chance.choice((16, 32, 64, 96, 128))
    offer = {"cpu": cores * 1000, "mem": cores * 8 * _GIB}
    if index % 3 == 0:
        offer["cuda.device"] = chance.choice((4, 8))
    elif index % 100 == 1:
        offer[chance.choice(_OTHER_SLOTS)] = 4
    return NodeState(f"n{index:05}", offer, {})


def _used(node: NodeState, running: list[RunningSession], chance: random.Random) -> NodeState:
    """About nine tenths of the node in five sessions of different lengths."""
    used = dict.fromkeys(node.capacity, 0)
    for number in range(5):
        slots = {slot: _part(slot, amount, chance) for slot, amount in node.capacity.items()}
        slots = {slot: min(amount, node.capacity[slot] - used[slot]) for slot, amount in slots.items()}
        slots = {slot: amount for slot, amount in slots.items() if amount}
        for slot, amount in slots.items():
            used[slot] += amount
        kernel = RunningKernel(f"k-{node.agent_id}-{number}", node.agent_id, slots)
        since = _NOW - chance.uniform(0, 3 * 3600)
        running.append(
            RunningSession(f"r-{node.agent_id}-{number}", (kernel,), since, _owner(chance), time_limit_s=4 * 3600.0)
        )
    return replace(node, used=used)


def _part(slot: str, amount: int, chance: random.Random) -> int:
    unit = {"cpu": 500, "mem": _GIB}.get(slot, 1)
    return int(amount * chance.uniform(0.15, 0.21)) // unit * unit + (unit if unit == 1 else 0)


def _waiting(index: int, chance: random.Random) -> WaitingSession:
    cores = chance.choice((1, 2, 4, 8, 16, 32))
    slots = {"cpu": cores * 1000, "mem": cores * chance.choice((2, 4, 8)) * _GIB}
    gpus = chance.choice((0, 0, 0, 1, 2, 4, 8))
    if gpus:
        slots["cuda.device"] = gpus
    elif chance.random() < 0.05:
        slots[chance.choice(_OTHER_SLOTS)] = 1
    session = _session(index, (slots,), _owner(chance))
    return replace(session, priority=chance.choice((10, 10, 10, 20)), time_limit_s=chance.choice((3600.0, 4 * 3600.0)))


def _owner(chance: random.Random) -> Owner:
    user = chance.randrange(1000)
    return Owner(f"u{user:04}", f"p{user % 100:03}", f"d{user % 10}", f"u{user:04}")


def _session(index: int, kernels: tuple[dict[str, int], ...], owner: Owner) -> WaitingSession:
    made = tuple(WaitingKernel(f"k{index}-{number}", slots) for number, slots in enumerate(kernels))
    return WaitingSession(f"s{index:07}", made, 10, _NOW - 100_000 + index * 0.5, owner=owner)


def _check(snapshot: Snapshot, decisions: Decisions) -> None:
    """Something was placed, no node holds more than it has, and each session was placed or told why not."""
    free = {
        (node.agent_id, slot): amount - node.used.get(slot, 0)
        for node in snapshot.nodes
        for slot, amount in node.capacity.items()
    }
    sessions = {session.session_id: session for session in snapshot.waiting}
    for placement in decisions.placements:
        for kernel in sessions[placement.session_id].kernels:
            for slot, amount in kernel.slots.items():
                if amount:
                    free[placement.kernels[kernel.kernel_id], slot] -= amount
    if not decisions.placements:
        raise SystemExit("nothing was placed")
    over = [where for where, left in free.items() if left < 0]
    if over:
        raise SystemExit(f"over capacity: {over[:3]}")
    if len(decisions.placements) + len(decisions.refusals) != len(sessions):
        raise SystemExit("a session was neither placed nor told why not")


def _warm(snapshot: Snapshot, rules: Policy, rounds: int) -> dict[str, float]:
    """Passes of a planner that stays: in each round the placed ones start, 100 others end and 100 new ones come."""
    chance = random.Random(_SEED)  # noqa: S311
    planner = Planner(snapshot, rules)
    decisions = planner.decide()
    planner.apply(_started(planner, decisions))
    planner.apply(_started(planner, planner.decide()))
    passes, cpu, whys = [], [], []
    for number in range(rounds):
        came = tuple(_waiting(len(snapshot.waiting) + number * 100 + index, chance) for index in range(100))
        changes = _ended(planner, chance, came)
        began, cpu_began = time.perf_counter(), time.process_time()
        planner.apply(changes)
        decisions = planner.decide(planner.now + 1)
        passes.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
        planner.apply(_started(planner, decisions))
        one = chance.choice(sorted(planner.waiting))
        began = time.perf_counter()
        explain(planner, rules, one)
        whys.append(time.perf_counter() - began)
    return {
        "warm_seconds": round(statistics.median(passes), 5),
        "warm_cpu_seconds": round(statistics.median(cpu), 5),
        "explain_seconds": round(statistics.median(whys), 5),
    }


def _started(planner: Planner, decisions: Decisions) -> Changes:
    """What the database would say after a pass was committed."""
    nodes: dict[str, NodeState] = {}
    running = []
    for placement in decisions.placements:
        session = planner.waiting[placement.session_id]
        kernels = []
        for kernel in session.kernels:
            agent_id = placement.kernels[kernel.kernel_id]
            nodes[agent_id] = _with(nodes.get(agent_id, planner.nodes[agent_id]), kernel.slots, 1)
            kernels.append(RunningKernel(kernel.kernel_id, agent_id, kernel.slots))
        running.append(
            RunningSession(
                session.session_id, tuple(kernels), planner.now, session.owner, time_limit_s=session.time_limit_s
            )
        )
    gone = tuple(one.session_id for one in decisions.placements)
    return Changes(nodes=tuple(nodes.values()), running=tuple(running), removed_waiting=gone)


def _ended(planner: Planner, chance: random.Random, came: tuple[WaitingSession, ...]) -> Changes:
    nodes: dict[str, NodeState] = {}
    ended = chance.sample(sorted(planner.running), min(100, len(planner.running)))
    for session_id in ended:
        for kernel in planner.running[session_id].kernels:
            nodes[kernel.agent_id] = _with(nodes.get(kernel.agent_id, planner.nodes[kernel.agent_id]), kernel.slots, -1)
    return Changes(nodes=tuple(nodes.values()), removed_running=tuple(ended), waiting=came)


def _with(node: NodeState, slots: dict[str, int], sign: int) -> NodeState:
    used = dict(node.used)
    for slot, amount in slots.items():
        used[slot] = used.get(slot, 0) + sign * amount
    return replace(node, used=used)


def _median(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """(wall, processor) seconds."""
    times, cpu = [], []
    for _ in range(rounds):
        gc.collect()
        began, cpu_began = time.perf_counter(), time.process_time()
        work()
        times.append(time.perf_counter() - began)
        cpu.append(time.process_time() - cpu_began)
    return statistics.median(times), statistics.median(cpu)
