"""Other slots for a session that runs: held before its containers grow, given up after they have shrunk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import holdings, ledger, running_limits
from moorage.db.holdings import Holding, Node, accelerators, changes_live, plain
from moorage.db.limits import check_slots
from moorage.db.other_devices import NoRoom, at_most, choose_held, plan_beside
from moorage.db.room import check_room
from moorage.domain.errors import Conflict
from moorage.domain.resources import Slots, check_amounts, format_slot, format_slots
from moorage.domain.session import Reason, SessionStatus
from moorage.scheduler.snapshot import ClusterMode

_S = SessionStatus


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session gets its new slots: as it runs, by a `restart` in its place, or `elsewhere`."""

    before: Slots = field(default_factory=dict)
    restart: bool = False
    elsewhere: bool = False


async def reserve(
    engine: AsyncEngine, session_id: str, attempt: int, slots: Slots, *, actor: str, move: bool
) -> Outcome:
    """RESIZING, holding of each slot the larger of old and new; accelerators that a restart brings are held beside.

    Raises what refuses it, with the numbers; then, and if it goes on `elsewhere`, nothing is changed. Idempotent by
    (session, attempt, slots): a session is resized once at a time.
    """
    wanted = {name: amount for name, amount in slots.items() if amount}
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        before: Slots = dict(row["slots"])
        restart = not changes_live(before, wanted)
        if row["attempt"] == attempt and row["status"] == _S.RESIZING:
            return Outcome(before, restart)
        if row["attempt"] != attempt or row["status"] != _S.RUNNING:
            raise Conflict(
                f"session {row['name']} is {row['status']}; a resize needs RUNNING", code="session-not-running"
            )
        growth = _grown(before, wanted)
        await _check_ever(connection, row, wanted, growth)
        await _check_limits(connection, row, growth)
        refusal = await _take(connection, row, await holdings.read(connection, session_id, attempt), wanted)
        if refusal is not None:
            if not move:
                raise refusal
            return Outcome(before, elsewhere=True)
        await ledger.set_status(connection, row, _S.RESIZING, actor=actor, message=words(before, wanted))
        return Outcome(before, restart)


async def settle(
    engine: AsyncEngine, session_id: str, attempt: int, slots: Slots, *, reason: str, message: str, actor: str
) -> bool:
    """RUNNING, with exactly these slots and nothing beside them. They can't have other accelerators than it has now.

    False if the attempt is over or the session isn't RESIZING. Idempotent by all of it.
    """
    wanted = {name: amount for name, amount in slots.items() if amount}
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        if row["attempt"] != attempt:
            return False
        if row["status"] != _S.RESIZING:
            return bool(row["status"] == _S.RUNNING and row["slots"] == wanted)
        if not changes_live(row["slots"], wanted):
            return False
        await holdings.nodes_of(connection, await holdings.read(connection, session_id, attempt))
        await holdings.release_beside(connection, session_id)
        for slot, amount in sorted(wanted.items()):
            await holdings.change_amount(connection, session_id, attempt, slot, amount)
        await ledger.set_status(
            connection,
            row,
            _S.RUNNING,
            actor=actor,
            reason=reason,
            message=message,
            extra=", slots = CAST(:slots AS jsonb)",
            values={"slots": json.dumps(wanted)},
        )
        await ledger.notify(connection, ledger.SCHEDULER_CHANNEL, row["resource_group"])
        return True


async def give_again(connection: AsyncConnection, session_id: str, slots: Mapping[str, int]) -> None:
    """The attempt, whose containers are gone, holds what its next start has: these slots, as `reserve` has held them,
    or without any those that it had.

    A device may have fallen ill since then: where the held ones don't serve, the accelerators stay what they were. One
    that was RESIZING is RESTARTING.
    """
    row = await _locked(connection, session_id)
    wanted, told = {name: amount for name, amount in (slots or row["slots"]).items() if amount}, ""
    held = await holdings.read(connection, session_id, row["attempt"])
    try:
        async with connection.begin_nested():
            await _exchange(connection, row, held, wanted)
    except (DBAPIError, NoRoom) as error:
        _pass_on_unless_no_room(error)
        told = f"the devices held for {words(row['slots'], wanted)} serve no more; accelerators stay as they were"
        wanted = plain(wanted) | accelerators(row["slots"])
        await _exchange(connection, row, [replace(one, beside={}) for one in held], wanted)
    await connection.execute(
        text("UPDATE sessions SET slots = CAST(:slots AS jsonb) WHERE id = :id"),
        {"id": session_id, "slots": json.dumps(wanted)},
    )
    if row["status"] == _S.RESIZING:
        reason = Reason.RESIZED if wanted != row["slots"] and not told else Reason.RESIZE_REFUSED
        message = told or words(row["slots"], wanted) or "it keeps what it had"
        await ledger.set_status(connection, row, _S.RESTARTING, actor="workflow", reason=reason, message=message)
        await ledger.notify(connection, ledger.SCHEDULER_CHANNEL, row["resource_group"])


def words(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """`cpu 1 → 2, mem 256 MiB → 1 GiB`: what becomes different."""
    names = [name for name in {**before, **after} if before.get(name, 0) != after.get(name, 0)]
    return ", ".join(
        f"{name} {format_slot(name, before.get(name, 0))} → {format_slot(name, after.get(name, 0))}" for name in names
    )


async def _locked(connection: AsyncConnection, session_id: str) -> dict[str, Any]:
    found = await connection.execute(
        text(
            "SELECT id, name, status, attempt, slots, resource_group, cluster_size, cluster_mode, architecture,"
            " designated FROM sessions WHERE id = :id FOR UPDATE"
        ),
        {"id": session_id},
    )
    return dict(found.mappings().one())


def _grown(before: Mapping[str, int], wanted: Mapping[str, int]) -> Slots:
    """What each kernel gets more of."""
    return {name: more for name, amount in wanted.items() if (more := amount - before.get(name, 0)) > 0}


async def _check_ever(connection: AsyncConnection, row: Mapping[str, Any], wanted: Slots, growth: Slots) -> None:
    """Refuses what no session may ask, and growth that no node of the group could ever hold."""
    check_amounts(wanted)
    await check_slots(connection, wanted)
    if not growth:
        return
    await check_room(
        connection,
        row["resource_group"],
        wanted,
        kernels=row["cluster_size"],
        on_one_node=row["cluster_mode"] == ClusterMode.SINGLE_NODE,
        architecture=row["architecture"],
        designated=row["designated"],
    )


async def _check_limits(connection: AsyncConnection, row: Mapping[str, Any], growth: Slots) -> None:
    """Growth must be within what each owner may hold; a session that shrinks is never refused."""
    more = {name: amount * row["cluster_size"] for name, amount in growth.items()}
    beyond = (await running_limits.take(connection, [str(row["id"])])).beyond(str(row["id"]), more)
    if beyond is None:
        return
    asked, now, limit = (format_slot(beyond.slot, one) for one in (more[beyond.slot], beyond.held, beyond.limit))
    raise Conflict(
        f"it asks {beyond.slot} {asked} more; {beyond.scope} {beyond.name} holds {now} and may hold {limit}",
        code="quota-exceeded",
        hint="ask for less, or an administrator for a grant; moor quota shows what is allowed",
        data={
            "scope": str(beyond.scope),
            "name": beyond.name,
            "slot": beyond.slot,
            "asked": more[beyond.slot],
            "now": beyond.held,
            "limit": beyond.limit,
        },
    )


async def _take(
    connection: AsyncConnection, row: Mapping[str, Any], held: Sequence[Holding], wanted: Slots
) -> Conflict | None:
    """Holds what each kernel gets more of; or nothing, and says what a node lacks."""
    nodes = await holdings.nodes_of(connection, held)
    lacking = _lacking(held, nodes, wanted)
    if lacking is not None:
        return lacking
    try:
        async with connection.begin_nested():
            for slot, amount in sorted(plain(wanted).items()):
                most = max(amount, row["slots"].get(slot, 0))
                await holdings.change_amount(connection, str(row["id"]), row["attempt"], slot, most)
            for kernel, slot, amount, devices in plan_beside(held, nodes, wanted):
                await holdings.hold_beside(connection, str(row["id"]), kernel, slot, amount, devices)
    except (DBAPIError, NoRoom) as error:
        _pass_on_unless_no_room(error)
        return _no_room(nodes[held[0].agent_id], accelerators(wanted), {})
    return None


def _lacking(held: Sequence[Holding], nodes: Mapping[str, Node], wanted: Slots) -> Conflict | None:
    """The first node that is lost, or can't hold its kernels with these slots."""
    for node in nodes.values():
        if node.status != "ALIVE":
            return Conflict(
                f"node {node.agent_id} is {node.status}", code="node-not-alive", hint="wait until it is back"
            )
        kernels = [one for one in held if one.agent_id == node.agent_id]
        most = {slot: at_most(kernels, node, slot) for slot in wanted}
        short = {slot: wanted[slot] for slot in wanted if wanted[slot] > max(most[slot], kernels[0].slots.get(slot, 0))}
        if short:
            return _no_room(node, short, most)
    return None


def _no_room(node: Node, short: Slots, most: Slots) -> Conflict:
    possible = {slot: most[slot] for slot in short if slot in most}
    free = {slot: node.free.get(slot, 0) for slot in short}
    words = f"; possible there is {format_slots(possible)}" if possible else ""
    return Conflict(
        f"asked {format_slots(short)}; node {node.agent_id} has {format_slots(free)} free{words}",
        code="no-room-on-node",
        hint="ask for what is possible, or let it start anew where there is room: --move",
        data={"asked": short, "node": node.agent_id, "free": free, "possible": possible},
    )


async def _exchange(
    connection: AsyncConnection, row: Mapping[str, Any], held: Sequence[Holding], wanted: Slots
) -> None:
    """What was held beside becomes the attempt's own, and what is too much goes."""
    session_id, attempt = str(row["id"]), row["attempt"]
    chosen = choose_held(held, await holdings.nodes_of(connection, held), wanted)
    await holdings.release_beside(connection, session_id)
    for slot in sorted({name for kernel in held for name in kernel.slots} - wanted.keys()):
        await holdings.release_slot(connection, session_id, attempt, slot)
    for slot, amount in sorted(wanted.items()):
        await holdings.change_amount(connection, session_id, attempt, slot, amount)
        for kernel in held:
            if slot not in kernel.slots:
                await holdings.add_slot(connection, session_id, kernel, attempt, slot, amount)
            await holdings.exchange_devices(connection, kernel, attempt, slot, chosen[kernel.kernel_id].get(slot, {}))


def _pass_on_unless_no_room(error: Exception) -> None:
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    if not isinstance(error, NoRoom) and state != _CHECK_VIOLATION:
        raise error


_CHECK_VIOLATION = "23514"
