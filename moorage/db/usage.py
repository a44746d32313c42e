"""What kernels used, kept; and which of them to ask for now."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db.engine import reading
from moorage.db.reach import within
from moorage.domain.tenancy import Principal
from moorage.domain.usage import DeviceUsage, KernelUsage

_KEPT = tuple(one.name for one in fields(KernelUsage))
_OWNER = {"user": "s.user_id", "project": "s.project_id", "domain": "s.domain"}
# Where containers are, or may be.
_PLACED = "s.status IN ('CREATING', 'RUNNING', 'RESTARTING', 'RESIZING', 'TERMINATING')"
OF_A_SESSION = (
    "CASE WHEN s.status IN ('TERMINATED', 'CANCELLED', 'ERROR') THEN (SELECT jsonb_agg(to_jsonb(g) - 'session_id'"
    " ORDER BY g.attempt, g.kernel_id) FROM kernel_usage g WHERE g.session_id = s.id) END"
)
"""The rows of the session `s` once it has ended, else NULL; most reads are of live ones, and look for none."""
_PLACES = (
    "SELECT k.id::text AS kernel_id, s.id::text AS session_id, s.attempt, k.role, k.idx, a.id AS agent,"
    " a.address, a.status AS agent_status FROM sessions s JOIN kernels k ON k.session_id = s.id"
    " LEFT JOIN agents a ON a.id = k.agent_id"
)


async def keep(connection: AsyncConnection, session_id: str, usage: Collection[KernelUsage]) -> None:
    """Once for each kernel and attempt; what was kept first stays."""
    for one in usage:
        await connection.execute(
            text(
                f"INSERT INTO kernel_usage (session_id, {', '.join(_KEPT)}) SELECT :session,"
                f" {', '.join(f':{name}' for name in _KEPT[:-1])}, CAST(:devices AS jsonb)"
                " WHERE EXISTS (SELECT 1 FROM kernels WHERE id = :kernel_id AND session_id = :session)"
                " ON CONFLICT DO NOTHING"
            ),
            {**asdict(one), "session": session_id, "devices": json.dumps([asdict(device) for device in one.devices])},
        )


def kept(rows: Sequence[Mapping[str, Any]] | None) -> list[KernelUsage]:
    """As OF_A_SESSION reads them."""
    return [
        KernelUsage(**{**row, "devices": [DeviceUsage(**device) for device in row["devices"]]}) for row in rows or ()
    ]


@dataclass(frozen=True, slots=True)
class Place:
    """A kernel and where it is, if it has a node."""

    kernel_id: str
    session_id: str
    attempt: int
    role: str
    idx: int
    agent: str | None
    address: str | None
    agent_status: str | None


async def places(engine: AsyncEngine, session_ids: Sequence[str]) -> list[Place]:
    """The kernels of these sessions, main first."""
    async with reading(engine) as connection:
        rows = await connection.fetch(
            f"{_PLACES} WHERE s.id = ANY($1::uuid[]) ORDER BY s.id, k.role, k.idx", list(session_ids)
        )
    return [Place(**row) for row in rows]


async def labels(engine: AsyncEngine) -> dict[tuple[str, int], dict[str, str]]:
    """Of every kernel that may have a container, by kernel and attempt: whose it is."""
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT k.id::text AS kernel_id, s.attempt, s.id::text AS session, s.name, k.role || k.idx AS kernel,"
            " u.email AS user, s.domain || '/' || p.name AS project, s.resource_group"
            " FROM sessions s JOIN kernels k ON k.session_id = s.id JOIN users u ON u.id = s.user_id"
            f" JOIN projects p ON p.id = s.project_id WHERE {_PLACED}"
        )
    return {
        (row["kernel_id"], row["attempt"]): {
            name: value for name, value in row.items() if name not in ("kernel_id", "attempt")
        }
        for row in rows
    }


async def running(engine: AsyncEngine, who: Principal, limit: int) -> tuple[list[dict[str, Any]], int]:
    """(the newest that `who` may read, how many there are)."""
    values: list[Any] = []
    seen = within(who.reach("session:read"), values, **_OWNER)
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT s.id::text, s.name, s.status, s.domain, u.email AS user, p.name AS project, s.resource_group,"
            " s.slots, s.cluster_size, s.started_at, count(*) OVER () AS total"
            " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
            f" WHERE {_PLACED} AND {seen} ORDER BY s.created_at DESC, s.id LIMIT ${len(values) + 1}",
            *values,
            limit,
        )
    return [{name: value for name, value in row.items() if name != "total"} for row in rows], (
        int(rows[0]["total"]) if rows else 0
    )
