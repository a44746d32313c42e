"""One scheduling pass as a pure function."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler.explain import refusal
from moorage.scheduler.order import ORDERS
from moorage.scheduler.place import Room
from moorage.scheduler.snapshot import Decisions, Placement, Policy, Refusal, Snapshot, WaitingSession


def decide(snapshot: Snapshot, policy: Policy) -> Decisions:
    """Who starts where, and why the others don't. No clock, no randomness, no I/O.

    A session that finds no room doesn't block those behind it; equal requests that found none are not tried again.
    """
    room = Room(snapshot.nodes)
    placements: list[Placement] = []
    refusals: list[Refusal] = []
    hopeless: set[tuple[tuple[str, int], ...]] = set()
    for session in ORDERS[policy.order](snapshot.waiting, policy, snapshot.now):
        shape = _shape(session)
        placement = None if shape in hopeless else _place(session, room)
        if placement is not None:
            placements.append(placement)
            continue
        hopeless.add(shape)
        refusals.append(refusal(session, _largest(session), room))
    return Decisions(tuple(placements), tuple(refusals))


def _place(session: WaitingSession, room: Room) -> Placement | None:
    """All kernels or none."""
    chosen: dict[str, str] = {}
    taken: list[tuple[str, NDArray[np.int64]]] = []
    for kernel in session.kernels:
        request = room.vector(kernel.slots)
        agent_id = None if request is None else room.concentrated(request, avoid=session.avoid)
        if request is None or agent_id is None:
            for earlier_agent, earlier in taken:
                room.give_back(earlier_agent, earlier)
            return None
        room.take(agent_id, request)
        taken.append((agent_id, request))
        chosen[kernel.kernel_id] = agent_id
    return Placement(session.session_id, session.attempt, chosen)


def _shape(session: WaitingSession) -> tuple[tuple[str, int], ...]:
    return tuple(item for kernel in session.kernels for item in sorted(kernel.slots.items()))


def _largest(session: WaitingSession) -> dict[str, int]:
    slots = {slot for kernel in session.kernels for slot in kernel.slots}
    return {slot: max(kernel.slots.get(slot, 0) for kernel in session.kernels) for slot in sorted(slots)}
