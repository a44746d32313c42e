"""Why a session waits, in words with numbers that a person reads."""

from __future__ import annotations

from moorage.domain.resources import format_slot, format_slots
from moorage.scheduler.place import Room
from moorage.scheduler.shape import Shape
from moorage.scheduler.snapshot import Cause


def words(cause: Cause, shape: Shape, room: Room) -> str:
    """What stands in the way of this request."""
    if cause is Cause.NO_NODES:
        return "waits: no node of the resource group is alive"
    if cause is Cause.NEVER_FITS:
        return _never(shape, room)
    if cause is Cause.BEHIND_HEAD:
        return "waits behind the head of the queue, which nobody may pass"
    if cause is Cause.RESERVED:
        return f"waits: the room for {asked(shape)} is kept for a session that waits longer or that others made way for"
    return f"waits for room: asks {_short(shape, room)}"


def asked(shape: Shape) -> str:
    """`cpu 2, mem 4 GiB`, and for a gang how many kernels."""
    if len(shape.part_of) == 1:
        return format_slots(largest(shape))
    return f"{len(shape.part_of)} kernels of up to {format_slots(largest(shape))}"


def largest(shape: Shape) -> dict[str, int]:
    """The most of each slot that one node must give."""
    slots = {slot for part in shape.parts for slot in part.asked}
    return {slot: max(part.asked.get(slot, 0) for part in shape.parts) for slot in sorted(slots)}


def _never(shape: Shape, room: Room) -> str:
    most = {slot: int(room.capacity[column].max()) for column, slot in enumerate(room.slots)}
    return f"asks {asked(shape)}; no node is that large (most of each: {format_slots(most)})"


def _short(shape: Shape, room: Room) -> str:
    gang = f"{len(shape.part_of)} kernels of up to " if len(shape.part_of) > 1 else ""
    return gang + ", ".join(
        f"{slot} {format_slot(slot, amount)} (most free on one node {format_slot(slot, room.most_free(slot))})"
        for slot, amount in largest(shape).items()
    )
