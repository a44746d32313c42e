"""All that keeps a session from starting now, with numbers, and the smallest change that would let it start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from moorage.domain.resources import format_slot
from moorage.scheduler import reasons
from moorage.scheduler.feasible import barred
from moorage.scheduler.place import Room
from moorage.scheduler.planner import Planner
from moorage.scheduler.shape import Part, Shape
from moorage.scheduler.snapshot import Cause, Policy, Snapshot, WaitingSession


@dataclass(frozen=True, slots=True)
class Obstacle:
    """One thing in the way. `nodes` is how many nodes it rules out by itself (None: it isn't about nodes)."""

    cause: str  # a Cause, or `slot:<name>`, `architecture`, `designated`, `devices`
    message: str
    nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a session waits. `position` counts from 1 in the order of the moment; `of` is how many are in the queue.

    `change` is the smallest change that would let it start now; empty where nothing stands in the way.
    """

    session_id: str
    obstacles: tuple[Obstacle, ...]
    fitting_nodes: int
    nodes: int
    position: int | None
    of: int
    change: str


def explain(known: Planner | Snapshot, policy: Policy, session_id: str) -> Explanation:
    """Every obstacle of a waiting session. A warm planner of that policy answers at once; else a pass is made first.

    Raises KeyError for a session that doesn't wait.
    """
    planner = _warm(known, policy)
    session = planner.waiting[session_id]
    room = planner.room
    shape = room.shape(session)
    own = _of_session(planner, session, shape)
    fitting, of_nodes = _of_nodes(room, shape, session)
    kept_for_others = _of_others(planner, session_id)
    position = planner.queue.position(session_id, planner.burden) if session_id in planner.queue else None
    change = _change_of_owner(own) if own else _change_of_request(room, shape, fitting)
    return Explanation(
        session_id,
        (*own, *kept_for_others, *of_nodes),
        int(fitting.sum()),
        len(room.nodes),
        position,
        planner.queue.size,
        change,
    )


def _warm(known: Planner | Snapshot, policy: Policy) -> Planner:
    if isinstance(known, Planner) and known.policy == policy:
        return known
    planner = Planner(known if isinstance(known, Snapshot) else known.snapshot(), policy)
    planner.decide()
    return planner


def _of_others(planner: Planner, session_id: str) -> list[Obstacle]:
    """Whether the last pass kept room from it for somebody else."""
    last = planner.refusals.get(session_id)
    if last is None or last.cause not in (Cause.BEHIND_HEAD, Cause.RESERVED):
        return []
    return [Obstacle(last.cause.value, last.message)]


def _of_session(planner: Planner, session: WaitingSession, shape: Shape) -> list[Obstacle]:
    """What its owner or the session itself is kept from, each limit that it would pass by itself."""
    found: list[Obstacle] = []
    told = barred(session, planner.policy, planner.now)
    if told is not None:
        found.append(Obstacle(told[0].value, told[1]))
    for tenant in planner.tenants.of(session.owner):
        for told in (tenant.full(), *(tenant.over({slot: some}) for slot, some in shape.total.items())):
            if told is not None:
                found.append(Obstacle(told[0].value, told[1]))
    return found


def _of_nodes(room: Room, shape: Shape, session: WaitingSession) -> tuple[NDArray[np.bool_], list[Obstacle]]:
    """Which nodes have room for the largest kernel, and by obstacle how many nodes it rules out."""
    if not room.nodes:
        return np.zeros(0, dtype=bool), [Obstacle(Cause.NO_NODES.value, "no node of the resource group is alive", 0)]
    found: list[Obstacle] = []
    largest = reasons.largest(shape)
    allowed = shape.parts[0].base < inf
    if not allowed.all():
        found.append(_not_allowed(room, session, allowed))
    fitting = allowed.copy()
    for slot, amount in largest.items():
        column = room.column.get(slot)
        has = np.zeros(len(room.nodes), dtype=bool) if column is None else room.free[column] >= amount
        fitting &= has
        if not has.all():
            found.append(_slot(room, slot, amount, allowed, has))
    if not shape.possible:
        found.insert(0, Obstacle(Cause.NEVER_FITS.value, reasons.words(Cause.NEVER_FITS, shape, room), len(room.nodes)))
    elif not fitting.any():
        message = f"no node of {len(room.nodes)} has all of {reasons.asked(shape)} free at the same time"
        found.insert(0, Obstacle(Cause.NO_ROOM.value, message, len(room.nodes)))
    elif len(shape.part_of) > 1 and (gang := _gang(room, shape)) is not None:
        found.insert(0, gang)
    return fitting, found


def _gang(room: Room, shape: Shape) -> Obstacle | None:
    """Room for some of the kernels isn't enough."""
    if shape.whole:
        return None
    counts = [int(np.minimum(room.times(part, room.free), len(shape.part_of)).sum()) for part in shape.parts]
    asked = [shape.part_of.count(index) for index in range(len(shape.parts))]
    short = [index for index in range(len(asked)) if counts[index] < asked[index]]
    if not short:
        return None
    index = short[0]
    message = f"room for {counts[index]} of {asked[index]} kernels that must start together"
    return Obstacle(Cause.NO_ROOM.value, message, None)


def _not_allowed(room: Room, session: WaitingSession, allowed: NDArray[np.bool_]) -> Obstacle:
    count = int((~allowed).sum())
    if session.designated:
        return Obstacle("designated", f"may go to {len(session.designated)} named node(s) only", count)
    return Obstacle("architecture", f"asks architecture {session.architecture}; {count} nodes have another", count)


def _slot(room: Room, slot: str, amount: int, allowed: NDArray[np.bool_], has: NDArray[np.bool_]) -> Obstacle:
    total = len(room.nodes)
    asks = f"{slot}: asks {format_slot(slot, amount)}"
    column = room.column.get(slot)
    if column is None:
        return Obstacle(f"slot:{slot}", f"{asks}, no node has that slot", total)
    large = int((room.capacity[column] >= amount).sum())
    most = int(room.free[column][allowed].max(initial=0))
    message = (
        f"{asks}, {int(has.sum())} of {total} nodes have that free (most {format_slot(slot, most)}),"
        f" {large} would if they were empty"
    )
    by_sum = _free_by_sum(room, column)
    if column in room.shared and most < amount <= by_sum:
        message += f"; {format_slot(slot, by_sum)} is free on one node, but in parts of several devices"
    return Obstacle(f"slot:{slot}", message, total - int(has.sum()))


def _free_by_sum(room: Room, column: int) -> int:
    """The most that is free of a slot on one node, whatever the devices."""
    return max((sum(one[column].free) for one in room.devices if column in one), default=0)


_CHANGE_OF_OWNER = {
    Cause.DEPENDENCY: "what it depends on had ended well",
    Cause.NOT_YET: "its start time had come",
    Cause.SESSION_TYPE: "the resource group took sessions of its type",
    Cause.CONCURRENCY: "one of the sessions under that limit had ended, or the limit were higher",
    Cause.SLOT_LIMIT: "less were held under that limit, or the limit were higher",
}


def _change_of_owner(own: list[Obstacle]) -> str:
    return f"{_CHANGE_OF_OWNER[Cause(own[0].cause)]} ({own[0].message})"


def _change_of_request(room: Room, shape: Shape, fitting: NDArray[np.bool_]) -> str:
    """One slot that asks less, if that is enough; else what is missing on the node that comes nearest."""
    part = _largest_part(shape)
    if not room.nodes:
        return "add a node"
    if fitting.any() and shape.whole:
        return ""
    if fitting.any():
        return "fewer kernels, or more nodes with room for one"
    one = _ask_less(room, part)
    return one or _free_more(room, part)


def _ask_less(room: Room, part: Part) -> str:
    if any(slot not in room.column for slot in part.asked):
        return ""
    best: tuple[float, str] | None = None
    for slot, amount in part.asked.items():
        column = room.column[slot]
        others = part.base < inf
        for other, some in part.need:
            if other != column:
                others &= room.free[other] >= some
        most = int(room.free[column][others].max(initial=0))
        if 0 < most < amount and (best is None or (amount - most) / amount < best[0]):
            words = f"ask {slot} {format_slot(slot, most)} instead of {format_slot(slot, amount)}"
            best = ((amount - most) / amount, words)
    return "" if best is None else best[1]


def _free_more(room: Room, part: Part) -> str:
    """What would have to come free on the one node that misses the least."""
    able = part.base < inf
    for column, amount in part.need:
        able &= room.capacity[column] >= amount
    unknown = [slot for slot in part.asked if slot not in room.column]
    if unknown or not able.any():
        return f"add a node with {', '.join(f'{slot} {format_slot(slot, some)}' for slot, some in part.asked.items())}"
    short = np.zeros(len(room.nodes))
    for column, amount in part.need:
        short += np.maximum(0, amount - room.free[column]) / room.scale[column]
    row = int(np.where(able, short, inf).argmin())
    missing = {room.slots[column]: amount - room.rows[row][column] for column, amount in part.need}
    words = ", ".join(f"{format_slot(slot, some)} more of {slot}" for slot, some in missing.items() if some > 0)
    return f"{words} on node {room.agent_ids[row]}"


def _largest_part(shape: Shape) -> Part:
    def size(part: Part) -> Mapping[int, int]:
        return dict(part.need)

    return max(shape.parts, key=lambda part: sorted(size(part).items(), key=lambda item: item[0]))
