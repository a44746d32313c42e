"""Devices as their agent describes them, and telling the sessions that hold one whose health changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db.ledger import SCHEDULER_CHANNEL, SESSION_CHANNEL, notify
from moorage.domain.node import Device
from moorage.domain.session import Reason

GONE = "the node has it no more"
# One that ends anyway has other news.
_TOLD = "('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING', 'RESTARTING', 'RESIZING')"


async def note_health(engine: AsyncEngine, agent_id: str, devices: Sequence[Device]) -> list[Device]:
    """Each device is as the agent says; sessions that hold one whose health changed are told. Returns those devices.

    Idempotent: what is known already changes nothing and is told nobody.
    """
    async with engine.begin() as connection:
        changed = await tell_holders(connection, agent_id, devices)
        await _write_health(connection, agent_id, devices)
        if changed:
            group = await connection.scalar(
                text("SELECT resource_group FROM agents WHERE id = :agent"), {"agent": agent_id}
            )
            await notify(connection, SCHEDULER_CHANNEL, str(group))
    return changed


async def offer(connection: AsyncConnection, agent_id: str, devices: Sequence[Device]) -> None:
    """What the node has now; a device that it has no more takes nothing new, and what holds it goes on.

    One that is offered otherwise than it is held (whole, now in shares) stays as it is held: 1 of 1 would be next to
    nothing of 100. Comes after the node's slots, which lose what such devices don't give.
    """
    values = {"id": agent_id, "devices": _json(devices)}
    await connection.execute(
        text(
            "INSERT INTO devices (agent_id, device_id, slot, total, numa, model, memory)"
            " SELECT :id, d.* FROM jsonb_to_recordset(CAST(:devices AS jsonb))"
            " AS d(device_id text, slot text, total int, numa int, model text, memory bigint)"
            " ON CONFLICT (agent_id, device_id) DO UPDATE SET numa = excluded.numa, model = excluded.model,"
            " memory = excluded.memory,"
            " slot = CASE WHEN devices.used > 0 THEN devices.slot ELSE excluded.slot END,"
            " total = CASE WHEN devices.used > 0 AND devices.slot <> excluded.slot THEN devices.total"
            " ELSE GREATEST(excluded.total, devices.used) END"
        ),
        values,
    )
    await connection.execute(
        text(
            "UPDATE agent_slots c SET offered = c.offered - m.missing,"
            " capacity = GREATEST(c.offered - m.missing, c.used)"
            " FROM (SELECT n.slot, sum(n.total) AS missing FROM jsonb_to_recordset(CAST(:devices AS jsonb))"
            " AS n(device_id text, slot text, total int) JOIN devices d ON d.agent_id = :id"
            " AND d.device_id = n.device_id AND d.slot <> n.slot GROUP BY n.slot) m"
            " WHERE c.agent_id = :id AND c.slot = m.slot"
        ),
        values,
    )
    await _write_health(connection, agent_id, devices)


async def tell_holders(connection: AsyncConnection, agent_id: str, devices: Sequence[Device]) -> list[Device]:
    """The devices whose health is about to change; each session that holds one has it in its timeline and goes on.

    First of its transaction: a session's row is locked before its node's slots and devices, here as in the ledger.
    """
    rows = await connection.execute(
        text("SELECT device_id, slot, healthy FROM devices WHERE agent_id = :agent"), {"agent": agent_id}
    )
    now = {device.device_id: device for device in devices}
    changed = []
    for row in rows:
        device = now.get(row.device_id, Device(row.device_id, row.slot, healthy=False, reason=GONE))
        if device.healthy != row.healthy:
            changed.append(device)
    if changed:
        for session_id, message in (await _messages(connection, agent_id, changed)).items():
            await _note(connection, session_id, message, agent_id)
    return changed


async def _messages(connection: AsyncConnection, agent_id: str, changed: Sequence[Device]) -> Mapping[str, str]:
    """Session → what it is told, for those that hold one of the devices now."""
    words = {device.device_id: _words(agent_id, device) for device in changed}
    rows = await connection.execute(
        text(
            "SELECT a.device_id, s.id::text AS session_id FROM device_allocations a"
            " JOIN kernels k ON k.id = a.kernel_id JOIN sessions s ON s.id = k.session_id AND s.attempt = a.attempt"
            " WHERE a.agent_id = :agent AND a.device_id = ANY(:devices) AND a.released_at IS NULL"
            " ORDER BY s.id, a.device_id"
        ),
        {"agent": agent_id, "devices": list(words)},
    )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.session_id, []).append(words[row.device_id])
    return {session_id: "; ".join(dict.fromkeys(said)) for session_id, said in found.items()}


def _words(agent_id: str, device: Device) -> str:
    if device.healthy:
        return f"device {device.device_id} of node {agent_id} is healthy again"
    return f"device {device.device_id} of node {agent_id} is unhealthy: {device.reason or 'no reason was given'}"


async def _note(connection: AsyncConnection, session_id: str, message: str, agent_id: str) -> None:
    """A step of the timeline that leads nowhere: the status stays."""
    await connection.execute(text("SELECT 1 FROM sessions WHERE id = :id FOR UPDATE"), {"id": session_id})
    noted = await connection.execute(
        text(
            f"WITH s AS (UPDATE sessions SET status_info = :message WHERE id = :id AND status IN {_TOLD}"
            " RETURNING id, status, attempt)"
            " INSERT INTO transitions (session_id, seq, from_status, to_status, actor, reason, message, attempt)"
            " SELECT id, (SELECT max(seq) + 1 FROM transitions WHERE session_id = :id), status, status, :actor,"
            " :reason, :message, attempt FROM s RETURNING 1"
        ),
        {"id": session_id, "message": message, "actor": f"agent:{agent_id}", "reason": str(Reason.DEVICE_HEALTH)},
    )
    if noted.first() is not None:
        await notify(connection, SESSION_CHANNEL, session_id)


async def _write_health(connection: AsyncConnection, agent_id: str, devices: Sequence[Device]) -> None:
    """Rows that say it already stay as they are: each change is read by the next pass."""
    await connection.execute(
        text(
            "UPDATE devices d SET healthy = n.healthy, reason = n.reason,"
            " health_changed = CASE WHEN d.healthy = n.healthy THEN d.health_changed ELSE now() END"
            " FROM (SELECT o.device_id, COALESCE(s.healthy, false) AS healthy, COALESCE(s.reason, :gone) AS reason"
            "   FROM devices o LEFT JOIN jsonb_to_recordset(CAST(:devices AS jsonb))"
            "   AS s(device_id text, healthy boolean, reason text) ON s.device_id = o.device_id"
            "   WHERE o.agent_id = :id) n"
            " WHERE d.agent_id = :id AND d.device_id = n.device_id AND (d.healthy, d.reason) <> (n.healthy, n.reason)"
        ),
        {"id": agent_id, "devices": _json(devices), "gone": GONE},
    )


def _json(devices: Sequence[Device]) -> str:
    return json.dumps([asdict(replace(one, reason="" if one.healthy else one.reason)) for one in devices])
