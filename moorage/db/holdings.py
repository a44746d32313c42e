"""What the kernels of a session hold, and how that changes while they run.

Rows of allocations with a negative attempt belong to no container: while they are held, the next attempt will need them
(a resize holds its accelerators beside those in use); released, they are what was held until a change, so that past use
counts as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db.ledger import lock_slots
from moorage.domain.resources import CPU, MEM, Slots
from moorage.scheduler.snapshot import DeviceState

Devices = dict[str, int]  # device id → amount
_PLAIN = frozenset({CPU, MEM})


def changes_live(before: Mapping[str, int], after: Mapping[str, int]) -> bool:
    """Whether a running container can go from one to the other: its accelerators stay."""
    return accelerators(before) == accelerators(after)


def accelerators(slots: Mapping[str, int]) -> Slots:
    return {name: amount for name, amount in slots.items() if name not in _PLAIN}


def plain(slots: Mapping[str, int]) -> Slots:
    return {name: amount for name, amount in slots.items() if name in _PLAIN}


@dataclass(frozen=True, slots=True)
class Holding:
    """A kernel's: by slot, and by slot its devices. `beside` is held for the next attempt."""

    kernel_id: str
    agent_id: str
    slots: Slots
    devices: Mapping[str, Devices]
    beside: Mapping[str, Devices]


@dataclass(slots=True)
class Node:
    """What it has free, less what is promised to others, and its devices; both locked until the commit."""

    agent_id: str
    status: str
    offered: Slots
    free: Slots
    devices: list[DeviceState] = field(default_factory=list)

    def of(self, slot: str) -> list[DeviceState]:
        return [one for one in self.devices if one.slot == slot]

    def take(self, slot: str, amount: int, devices: Mapping[str, int]) -> None:
        self.free[slot] = self.free.get(slot, 0) - amount
        self.devices = [replace(one, used=one.used + devices.get(one.device_id, 0)) for one in self.devices]


async def read(connection: AsyncConnection, session_id: str, attempt: int) -> list[Holding]:
    """The kernels of the attempt, the main one first. What is fenced on a lost node is not theirs any more."""
    rows = await connection.execute(text(_HELD), {"id": session_id, "attempt": attempt})
    found = []
    for row in rows:
        devices: dict[str, Devices] = {}
        beside: dict[str, Devices] = {}
        for one in row.devices or []:
            held = beside if one["beside"] else devices
            held.setdefault(one["slot"], {})[one["device"]] = one["amount"]
        found.append(Holding(row.kernel_id, row.agent_id, dict(row.slots or {}), devices, beside))
    return found


_HELD = """
    SELECT k.id::text AS kernel_id, k.agent_id,
           (SELECT jsonb_object_agg(a.slot, a.amount) FROM allocations a
             WHERE a.kernel_id = k.id AND a.attempt = :attempt AND a.released_at IS NULL) AS slots,
           (SELECT jsonb_agg(jsonb_build_object('slot', d.slot, 'device', d.device_id, 'amount', d.amount,
                                                'beside', d.attempt < 0) ORDER BY d.device_id)
              FROM device_allocations d JOIN allocations a USING (kernel_id, attempt, slot)
             WHERE d.kernel_id = k.id AND (d.attempt = :attempt OR d.attempt < 0) AND d.released_at IS NULL
               AND a.released_at IS NULL AND a.fenced_at IS NULL) AS devices
      FROM kernels k WHERE k.session_id = :id AND k.agent_id IS NOT NULL ORDER BY k.role, k.idx"""


async def nodes_of(connection: AsyncConnection, holdings: Sequence[Holding]) -> dict[str, Node]:
    """The nodes of these kernels. Nobody takes anything of them before the commit."""
    values = {"agents": sorted({one.agent_id for one in holdings})}
    await lock_slots(connection, values["agents"])
    nodes: dict[str, Node] = {}
    for row in await connection.execute(text(_SLOTS), values):
        node = nodes.setdefault(row.agent_id, Node(row.agent_id, row.status, {}, {}))
        node.offered[row.slot] = row.offered
        node.free[row.slot] = max(0, row.offered - row.used - row.promised)
    for row in await connection.execute(text(_DEVICES), values):
        device = DeviceState(row.device_id, row.slot, row.total, row.used, row.numa, row.healthy)
        nodes[row.agent_id].devices.append(device)
    return nodes


# What preemption made free for somebody is his.
_SLOTS = """
    SELECT c.agent_id, a.status, c.slot, c.offered, c.used,
           (SELECT COALESCE(sum((s.slots ->> c.slot)::bigint), 0)::bigint FROM holds h
              JOIN sessions s ON s.id = h.session_id, jsonb_each_text(h.kernels) k
             WHERE h.until > now() AND s.status = 'PENDING' AND k.value = c.agent_id) AS promised
      FROM agent_slots c JOIN agents a ON a.id = c.agent_id WHERE c.agent_id = ANY(:agents)"""
_DEVICES = """
    SELECT agent_id, device_id, slot, total, used, numa, healthy FROM devices WHERE agent_id = ANY(:agents)
     ORDER BY agent_id, device_id FOR UPDATE"""


async def change_amount(connection: AsyncConnection, session_id: str, attempt: int, slot: str, amount: int) -> None:
    """Each kernel holds so much of the slot from now on; until now it counts with what it held."""
    values = {"id": session_id, "attempt": attempt, "slot": slot, "amount": amount}
    changed = (
        "session_id = :id AND attempt = :attempt AND slot = :slot AND released_at IS NULL AND fenced_at IS NULL"
        " AND amount <> :amount"
    )
    await connection.execute(
        text(
            "INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount, allocated_at,"
            f" released_at) SELECT kernel_id, {_NEXT_BESIDE}, slot, session_id, agent_id, amount, allocated_at, now()"
            f" FROM allocations a WHERE {changed}"
        ),
        values,
    )
    await connection.execute(
        text(f"UPDATE allocations SET amount = :amount, allocated_at = now() WHERE {changed}"), values
    )


_NEXT_BESIDE = "(SELECT LEAST(min(o.attempt), 0) - 1 FROM allocations o WHERE o.kernel_id = a.kernel_id)"


async def add_slot(
    connection: AsyncConnection, session_id: str, kernel: Holding, attempt: int, slot: str, amount: int
) -> None:
    await connection.execute(
        text(
            "INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)"
            " VALUES (:kernel, :attempt, :slot, :id, :agent, :amount)"
        ),
        {**_of(kernel, attempt, slot), "id": session_id, "amount": amount},
    )


async def release_slot(connection: AsyncConnection, session_id: str, attempt: int, slot: str) -> None:
    """With its devices."""
    await connection.execute(
        text(
            "UPDATE allocations SET released_at = now() WHERE session_id = :id AND attempt = :attempt AND slot = :slot"
            " AND released_at IS NULL AND fenced_at IS NULL"
        ),
        {"id": session_id, "attempt": attempt, "slot": slot},
    )


async def exchange_devices(
    connection: AsyncConnection, kernel: Holding, attempt: int, slot: str, wanted: Mapping[str, int]
) -> None:
    """The kernel has exactly these devices of the slot."""
    held = kernel.devices.get(slot, {})
    for device_id in sorted(held.keys() | wanted.keys()):
        amount = wanted.get(device_id, 0)
        values = {**_of(kernel, attempt, slot), "device": device_id, "amount": amount}
        if device_id not in held:
            await _add_device(connection, values)
        elif amount != held[device_id]:
            change = "amount = :amount" if amount else "released_at = now()"
            await connection.execute(
                text(
                    f"UPDATE device_allocations SET {change} WHERE kernel_id = :kernel AND attempt = :attempt"
                    " AND device_id = :device AND released_at IS NULL"
                ),
                values,
            )


async def hold_beside(
    connection: AsyncConnection, session_id: str, kernel: Holding, slot: str, amount: int, devices: Mapping[str, int]
) -> None:
    """For the next attempt, beside what this one uses."""
    place = await connection.execute(
        text("SELECT LEAST(min(attempt), 0) - 1 FROM allocations WHERE kernel_id = :kernel"),
        {"kernel": kernel.kernel_id},
    )
    attempt = int(place.scalar_one())
    await add_slot(connection, session_id, kernel, attempt, slot, amount)
    for device_id, part in sorted(devices.items()):
        await _add_device(connection, {**_of(kernel, attempt, slot), "device": device_id, "amount": part})


async def release_beside(connection: AsyncConnection, session_id: str) -> None:
    await connection.execute(
        text(
            "UPDATE allocations SET released_at = now() WHERE session_id = :id AND attempt < 0"
            " AND released_at IS NULL AND fenced_at IS NULL"
        ),
        {"id": session_id},
    )


async def _add_device(connection: AsyncConnection, values: Mapping[str, Any]) -> None:
    await connection.execute(
        text(
            "INSERT INTO device_allocations (kernel_id, attempt, agent_id, device_id, slot, amount)"
            " VALUES (:kernel, :attempt, :agent, :device, :slot, :amount)"
        ),
        dict(values),
    )


def _of(kernel: Holding, attempt: int, slot: str) -> dict[str, Any]:
    return {"kernel": kernel.kernel_id, "agent": kernel.agent_id, "attempt": attempt, "slot": slot}
