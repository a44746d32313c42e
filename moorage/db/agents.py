"""Nodes as people see and steer them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import audit
from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.db.nodes import free_fenced
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.node import AgentStatus
from moorage.domain.tenancy import Principal

_AGENT = (
    "SELECT a.id, a.status, a.schedulable, a.resource_group, a.address, a.architecture, a.runtime, a.status_changed,"
    " a.warnings,"
    " (SELECT jsonb_object_agg(c.slot, jsonb_build_object('capacity', c.offered, 'used', c.used))"
    "    FROM agent_slots c WHERE c.agent_id = a.id) AS slots,"
    " (SELECT COALESCE(jsonb_agg(jsonb_build_object('id', d.device_id, 'slot', d.slot, 'model', d.model,"
    "    'total', d.total, 'used', d.used, 'numa', d.numa, 'memory', d.memory, 'healthy', d.healthy,"
    "    'reason', d.reason, 'health_changed', d.health_changed) ORDER BY d.slot, d.device_id), '[]')"
    "    FROM devices d WHERE d.agent_id = a.id) AS devices,"
    " (SELECT count(DISTINCT l.session_id) FROM allocations l WHERE l.agent_id = a.id"
    "    AND l.released_at IS NULL) AS sessions FROM agents a"
)


async def index(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"{_AGENT} WHERE a.status <> 'TERMINATED' ORDER BY a.id"))
        return [dict(row) for row in rows.mappings()]


async def get(engine: AsyncEngine, agent_id: str) -> dict[str, Any]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"{_AGENT} WHERE a.id = :id AND a.status <> 'TERMINATED'"), {"id": agent_id}
        )
        row = rows.mappings().first()
    if row is None:
        raise _unknown(agent_id)
    return dict(row)


async def set_schedulable(
    engine: AsyncEngine, who: Principal, agent_id: str, *, schedulable: bool, drained: bool = False
) -> None:
    """Whether new work is placed on the node; what runs there goes on. The scheduler knows at once.

    `drained`: it is told to empty itself next; the audit says so before it is.
    """
    async with engine.begin() as connection:
        rows = await connection.execute(
            text("SELECT resource_group, schedulable FROM agents WHERE id = :id AND status <> 'TERMINATED' FOR UPDATE"),
            {"id": agent_id},
        )
        agent = rows.first()
        if agent is None:
            raise _unknown(agent_id)
        await connection.execute(
            text("UPDATE agents SET schedulable = :schedulable WHERE id = :id"),
            {"id": agent_id, "schedulable": schedulable},
        )
        await connection.execute(
            text("SELECT pg_notify(:channel, :group)"), {"channel": SCHEDULER_CHANNEL, "group": agent.resource_group}
        )
        after = {"schedulable": schedulable} | ({"drained": True} if drained else {})
        before = {"schedulable": agent.schedulable}
        await audit.write(connection, who, "agent:update", agent_id, before=before, after=after)


async def remove(engine: AsyncEngine, who: Principal, agent_id: str) -> None:
    """A lost node that is gone for good: what was fenced on it is released. It comes back if it ever registers again.

    Conflict while it lives, or while a session holds room on it.
    """
    async with engine.begin() as connection:
        status = await connection.scalar(text("SELECT status FROM agents WHERE id = :id FOR UPDATE"), {"id": agent_id})
        if status is None or status == AgentStatus.TERMINATED:
            raise _unknown(agent_id)
        if status == AgentStatus.ALIVE:
            raise Conflict(
                f"agent {agent_id} is alive",
                code="agent-alive",
                hint=f"moor agents drain {agent_id}, then stop its process; it is LOST 15 s later and can be removed",
            )
        holding = list(
            await connection.scalars(
                text(
                    "SELECT DISTINCT s.name FROM allocations a JOIN sessions s ON s.id = a.session_id"
                    " WHERE a.agent_id = :id AND a.released_at IS NULL AND a.fenced_at IS NULL ORDER BY 1"
                ),
                {"id": agent_id},
            )
        )
        if holding:
            raise Conflict(
                f"{len(holding)} sessions still hold room on agent {agent_id}: {', '.join(holding[:5])}",
                code="agent-in-use",
                hint="they end or move within half a minute of its loss; moor ps shows them",
            )
        await free_fenced(connection, agent_id)
        await connection.execute(
            text("UPDATE agents SET status = 'TERMINATED', status_changed = now() WHERE id = :id"), {"id": agent_id}
        )
        await audit.write(connection, who, "agent:delete", agent_id, before={"status": status})


def _unknown(agent_id: str) -> NotFound:
    return NotFound(f"there is no agent {agent_id[:64]!r}", code="unknown-agent", hint="moor agents lists them")
