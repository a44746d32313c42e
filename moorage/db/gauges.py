"""What operators watch: the queue, what is offered and used, nodes, sessions. Each by an index, none by a full scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import reading


@dataclass(frozen=True, slots=True)
class Gauges:
    """Rows as read; ages in seconds."""

    queue: list[dict[str, Any]]  # resource_group, waiting, oldest_s, median_s
    slots: list[dict[str, Any]]  # resource_group, slot, capacity, used: of living nodes
    agents: list[dict[str, Any]]  # id, resource_group, address, status, schedulable
    sessions: dict[str, int]  # live ones by status
    devices: list[dict[str, Any]]  # agent, device, slot, model, healthy


_QUEUE = (
    "SELECT g.name AS resource_group, count(s.id) AS waiting,"
    " extract(epoch FROM now() - min(s.created_at))::float8 AS oldest_s,"
    " percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM now() - s.created_at))::float8 AS median_s"
    " FROM resource_groups g LEFT JOIN sessions s ON s.resource_group = g.name AND s.status = 'PENDING'"
    " WHERE g.removed_at IS NULL GROUP BY g.name ORDER BY g.name"
)
_SLOTS = (
    "SELECT a.resource_group, c.slot, sum(c.offered)::bigint AS capacity, sum(c.used)::bigint AS used"
    " FROM agent_slots c JOIN agents a ON a.id = c.agent_id WHERE a.status = 'ALIVE' GROUP BY 1, 2 ORDER BY 1, 2"
)
_AGENTS = "SELECT id, resource_group, address, status, schedulable FROM agents WHERE status <> 'TERMINATED' ORDER BY id"
_SESSIONS = (
    "SELECT status, count(*) AS n FROM sessions WHERE status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR') GROUP BY 1"
)
_DEVICES = (
    "SELECT d.agent_id AS agent, d.device_id AS device, d.slot, d.model, d.healthy FROM devices d"
    " JOIN agents a ON a.id = d.agent_id WHERE a.status = 'ALIVE' ORDER BY 1, 2"
)


async def gauges(engine: AsyncEngine) -> Gauges:
    async with reading(engine) as connection:

        async def rows(query: str) -> list[dict[str, Any]]:
            return [dict(row) for row in await connection.fetch(query)]

        return Gauges(
            queue=await rows(_QUEUE),
            slots=await rows(_SLOTS),
            agents=await rows(_AGENTS),
            sessions={row["status"]: row["n"] for row in await rows(_SESSIONS)},
            devices=await rows(_DEVICES),
        )
