"""Why a session waits, with the numbers, in words that a person reads."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.domain.resources import format_slot, format_slots
from moorage.scheduler.place import Room
from moorage.scheduler.snapshot import Cause, Refusal, WaitingSession


def refusal(session: WaitingSession, request: Mapping[str, int], room: Room) -> Refusal:
    """What stands in the way of this request, on the node that comes nearest."""
    if not room.agent_ids:
        return Refusal(session.session_id, Cause.NO_NODES, "waits: no node of the resource group is alive")
    vector = room.vector(request)
    if vector is None or not room.could_ever_hold(vector):
        largest = {slot: int(room.capacity[:, column].max()) for column, slot in enumerate(room.slots)}
        message = f"asks {format_slots(request)}; no node is that large (most of each: {format_slots(largest)})"
        return Refusal(session.session_id, Cause.NEVER_FITS, message)
    short = ", ".join(
        f"{slot} {format_slot(slot, amount)} (most free on one node {format_slot(slot, _most_free(room, slot))})"
        for slot, amount in request.items()
    )
    return Refusal(session.session_id, Cause.NO_ROOM, f"waits for room: asks {short}")


def _most_free(room: Room, slot: str) -> int:
    return int(room.free[:, room.slots.index(slot)].max())
