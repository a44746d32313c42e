"""Nodes: registration, what their containers should be, loss and return."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import devices, networks
from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.domain.errors import InvalidRequest
from moorage.domain.node import AgentInfo, ContainerSeen

# A container may exist while its session is in one of these; beyond them it is killed.
_EXPECTED = "('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING', 'RESTARTING', 'RESIZING', 'TERMINATING')"
# Only these must have one: before RUNNING it may not be made yet, in TERMINATING or RESTARTING it may be gone already.
_REQUIRED = "('RUNNING', 'RESIZING')"
# A report may be older than a container that was made meanwhile; so long a container may be missing from it.
_REPORT_AGE_S = 30


@dataclass(frozen=True, slots=True)
class MissingKernel:
    """A kernel that should run on the node and doesn't."""

    session_id: str
    kernel_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Comparison:
    unexpected: list[ContainerSeen]
    missing: list[MissingKernel]
    ended: list[ContainerSeen]


async def register(engine: AsyncEngine, info: AgentInfo) -> None:
    """The node is ALIVE with this offer. A smaller offer than what is in use is reached as sessions end."""
    async with engine.begin() as connection:
        group = await connection.execute(
            text("SELECT 1 FROM resource_groups WHERE name = :name AND removed_at IS NULL"),
            {"name": info.resource_group},
        )
        if group.scalar_one_or_none() is None:
            raise InvalidRequest(f"there is no resource group {info.resource_group!r}", code="unknown-resource-group")
        await devices.tell_holders(connection, info.agent_id, info.devices)
        await connection.execute(
            text(
                "INSERT INTO agents (id, resource_group, status, address, architecture, runtime, hostname, version,"
                " incarnation, images, overlay_address, warnings)"
                " VALUES (:id, :resource_group, 'ALIVE', :address, :architecture, :runtime,"
                " :hostname, :version, :incarnation, :images, :overlay, :warnings)"
                " ON CONFLICT (id) DO UPDATE SET status = 'ALIVE',"
                " resource_group = excluded.resource_group, address = excluded.address,"
                " architecture = excluded.architecture, runtime = excluded.runtime, hostname = excluded.hostname,"
                " version = excluded.version, incarnation = excluded.incarnation, images = excluded.images,"
                " overlay_address = excluded.overlay_address, warnings = excluded.warnings,"
                " status_changed = CASE WHEN agents.status = 'ALIVE' THEN agents.status_changed ELSE now() END"
            ),
            {
                "id": info.agent_id,
                "resource_group": info.resource_group,
                "address": info.address,
                "architecture": info.architecture,
                "runtime": info.runtime,
                "hostname": info.hostname,
                "version": info.version,
                "incarnation": info.incarnation,
                "images": info.images,
                "overlay": info.overlay_address,
                "warnings": info.warnings,
            },
        )
        await connection.execute(
            text(
                "INSERT INTO agent_slots (agent_id, slot, capacity, offered)"
                " SELECT :id, o.key, o.value::bigint, o.value::bigint FROM jsonb_each_text(CAST(:slots AS jsonb)) AS o"
                " ON CONFLICT (agent_id, slot) DO UPDATE SET offered = excluded.offered,"
                " capacity = GREATEST(excluded.offered, agent_slots.used)"
            ),
            {"id": info.agent_id, "slots": json.dumps(info.slots)},
        )
        await connection.execute(
            text(
                "UPDATE agent_slots SET offered = 0, capacity = used WHERE agent_id = :id"
                " AND NOT CAST(:slots AS jsonb) ? slot"
            ),
            {"id": info.agent_id, "slots": json.dumps(info.slots)},
        )
        await devices.offer(connection, info.agent_id, info.devices)
        await connection.execute(
            text("SELECT pg_notify(:channel, :payload)"),
            {"channel": SCHEDULER_CHANNEL, "payload": info.resource_group},
        )


async def note_images(engine: AsyncEngine, agent_id: str, images: Sequence[str]) -> None:
    """The images on the node, for the scheduler's choice."""
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE agents SET images = :images WHERE id = :id AND images <> :images"),
            {"id": agent_id, "images": list(images)},
        )


async def compare(engine: AsyncEngine, agent_id: str, containers: Iterable[ContainerSeen]) -> Comparison:
    """What runs on the node against what should: by kernel and attempt."""
    seen = list(containers)
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                text(
                    "SELECT k.id AS kernel_id, s.id AS session_id, s.attempt, s.status IN"
                    f" {_REQUIRED} AND s.status_changed < now() - make_interval(secs => {_REPORT_AGE_S}) AS required"
                    " FROM kernels k JOIN sessions s ON s.id = k.session_id"
                    f" WHERE k.agent_id = :agent AND s.status IN {_EXPECTED}"
                ),
                {"agent": agent_id},
            )
        ).all()
    expected = {(str(row.kernel_id), row.attempt): row for row in rows}
    present = {(container.kernel_id, container.attempt) for container in seen}
    return Comparison(
        unexpected=[one for one in seen if (one.kernel_id, one.attempt) not in expected],
        missing=[
            MissingKernel(str(row.session_id), kernel_id, attempt)
            for (kernel_id, attempt), row in expected.items()
            if row.required and (kernel_id, attempt) not in present
        ],
        ended=[one for one in seen if one.state == "exited" and (one.kernel_id, one.attempt) in expected],
    )


async def release_fenced(engine: AsyncEngine, agent_id: str, still_there: Iterable[tuple[str, int]]) -> int:
    """Frees what was held for the node while it was lost, but for the kernels that still have a container."""
    async with engine.begin() as connection:
        return await free_fenced(connection, agent_id, still_there)


async def free_fenced(connection: AsyncConnection, agent_id: str, still_there: Iterable[tuple[str, int]] = ()) -> int:
    """As `release_fenced`, as a part of more."""
    held = json.dumps([{"kernel_id": kernel_id, "attempt": attempt} for kernel_id, attempt in still_there])
    await connection.execute(
        text("SELECT 1 FROM agent_slots WHERE agent_id = :agent ORDER BY slot FOR UPDATE"), {"agent": agent_id}
    )
    freed = await connection.execute(
        text(
            "UPDATE allocations a SET released_at = now() WHERE a.agent_id = :agent AND a.fenced_at IS NOT NULL"
            " AND a.released_at IS NULL AND NOT EXISTS (SELECT 1 FROM jsonb_to_recordset(CAST(:held AS jsonb))"
            " AS h(kernel_id uuid, attempt int) WHERE h.kernel_id = a.kernel_id AND h.attempt = a.attempt)"
            " RETURNING session_id::text"
        ),
        {"agent": agent_id, "held": held},
    )
    sessions = list(freed.scalars())
    for session_id in sorted(set(sessions)):
        await networks.release(connection, session_id)
    if sessions:
        await connection.execute(
            text("SELECT pg_notify(:channel, resource_group) FROM agents WHERE id = :agent"),
            {"channel": SCHEDULER_CHANNEL, "agent": agent_id},
        )
    return len(sessions)


async def mark_lost(engine: AsyncEngine, agent_id: str) -> list[str]:
    """The node takes nothing more. Returns the sessions on it, which must be told."""
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE agents SET status = 'LOST', status_changed = now() WHERE id = :id AND status = 'ALIVE'"),
            {"id": agent_id},
        )
        rows: Any = await connection.execute(
            text(
                "SELECT DISTINCT s.id FROM kernels k JOIN sessions s ON s.id = k.session_id"
                f" WHERE k.agent_id = :agent AND s.status IN {_EXPECTED}"
            ),
            {"agent": agent_id},
        )
        return [str(row.id) for row in rows]


async def stranded(engine: AsyncEngine) -> list[tuple[str, str]]:
    """(session, lost node) of those that hold room on a node that is lost: what they were told may not have arrived."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT DISTINCT s.id::text, a.id AS agent FROM kernels k JOIN sessions s ON s.id = k.session_id"
                " JOIN agents a ON a.id = k.agent_id WHERE a.status = 'LOST'"
                f" AND a.status_changed < now() - interval '10 seconds' AND s.status IN {_EXPECTED} ORDER BY 1, 2"
            )
        )
        return [(row.id, row.agent) for row in rows]


@dataclass(frozen=True, slots=True)
class Occupant:
    """A session that holds room on a node; `moves` if it may go on elsewhere."""

    session_id: str
    attempt: int
    moves: bool


async def close_off(engine: AsyncEngine, agent_id: str) -> list[Occupant]:
    """The node takes nothing new. Returns what holds room on it."""
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET schedulable = false WHERE id = :id"), {"id": agent_id})
        rows = await connection.execute(
            text(
                "SELECT DISTINCT s.id::text AS session_id, s.attempt, s.on_node_loss = 'requeue' AS moves"
                " FROM kernels k JOIN sessions s ON s.id = k.session_id"
                f" WHERE k.agent_id = :agent AND s.status IN {_EXPECTED} ORDER BY 1"
            ),
            {"agent": agent_id},
        )
        return [Occupant(**row) for row in rows.mappings()]
