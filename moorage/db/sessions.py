"""Sessions as people see them: every read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.tenancy import Principal
from moorage.domain.errors import Conflict, NotFound

_COLUMNS = (
    "s.id, s.name, s.status, CASE WHEN s.status = 'PENDING' AND s.waiting_because <> '' THEN s.waiting_because"
    " ELSE s.status_info END AS status_info, s.result, s.exit_code, s.reason, s.image, s.type, s.command,"
    " u.email AS user, p.name AS project, s.domain, s.resource_group, s.agent_id AS agent, s.priority, s.slots,"
    " s.attempt, s.created_at, s.status_changed, s.started_at, s.terminated_at, s.on_node_loss, s.pending_timeout_s,"
    " s.lifetime_s, s.batch_timeout_s, s.grace_s, s.access_key, s.cluster_size, s.cluster_mode, s.not_before,"
    " s.on_dependency_failure, s.architecture, s.designated AS agents, s.preemptible, s.job_priority"
)
_FROM = " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PREFIX = re.compile(r"[0-9a-f-]{4,36}")


async def by_id(engine: AsyncEngine, session_id: str) -> Mapping[str, Any] | None:
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT {_COLUMNS}{_FROM} WHERE s.id = :id"), {"id": session_id})
        row = rows.mappings().first()
        return None if row is None else dict(row)


async def find(engine: AsyncEngine, who: Principal, ref: str) -> Mapping[str, Any]:
    """By id, else live name, else newest ended one of that name, else unambiguous id prefix; of what `who` may see."""
    own = "" if who.sees_all else " AND s.user_id = :user"
    if _UUID.fullmatch(ref):
        where = "s.id = :ref"
    elif _PREFIX.fullmatch(ref):
        where = "(s.name = :ref OR s.id::text LIKE :ref || '%')"
    else:
        where = "s.name = :ref"
    order = f" ORDER BY (s.name = :text) DESC, ({_LIVE}) DESC, (s.user_id = :user) DESC, s.created_at DESC LIMIT 6"
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                text(f"SELECT {_COLUMNS}{_FROM} WHERE {where}{own}{order}"),
                {"ref": ref, "text": ref, "user": who.user_id},
            )
        ).mappings()
        found = rows.all()
    if not found:
        raise NotFound(f"no session {ref[:80]!r}", hint="moor ps -a lists yours")
    if found[0]["name"] != ref and len(found) > 1:
        matches = [{"id": str(row["id"]), "name": row["name"], "status": row["status"]} for row in found]
        raise Conflict(
            f"{ref!r} begins the ids of {len(found)} sessions or more; give more of it",
            code="too-many-sessions-matched",
            data={"matches": matches},
        )
    return dict(found[0])


async def page(
    engine: AsyncEngine,
    who: Principal,
    *,
    statuses: Sequence[str],
    include_ended: bool,
    name: str | None,
    limit: int,
    offset: int,
) -> tuple[list[Mapping[str, Any]], int]:
    """(newest first, how many there are in all)."""
    conditions = ["true"]
    if not who.sees_all:
        conditions.append("s.user_id = :user")
    if statuses:
        conditions.append("s.status = ANY(:statuses)")
    elif not include_ended:
        conditions.append(_LIVE)
    if name:
        conditions.append("s.name = :name")
    values: dict[str, Any] = {"limit": limit, "offset": offset}
    values |= {"user": who.user_id} if not who.sees_all else {}
    values |= {"statuses": list(statuses)} if statuses else {}
    values |= {"name": name} if name else {}
    where = " AND ".join(conditions)
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {_COLUMNS}{_FROM} WHERE {where} ORDER BY s.created_at DESC, s.id LIMIT :limit OFFSET :offset"
            ),
            values,
        )
        items: list[Mapping[str, Any]] = [dict(row) for row in rows.mappings()]
        counted = await connection.execute(text(f"SELECT count(*) FROM sessions s WHERE {where}"), values)
        return items, int(counted.scalar_one())


async def events(engine: AsyncEngine, session_id: str) -> list[Mapping[str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT seq, from_status, to_status, at, actor, reason, message, attempt FROM transitions"
                " WHERE session_id = :id ORDER BY seq"
            ),
            {"id": session_id},
        )
        return [dict(row) for row in rows.mappings()]


async def kernels(engine: AsyncEngine, session_id: str) -> list[dict[str, Any]]:
    """Main first, then the others by index, with where each is or was last."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT role, idx, agent_id AS agent, container_id AS container FROM kernels WHERE session_id = :id"
                " ORDER BY role <> 'main', role, idx"
            ),
            {"id": session_id},
        )
        return [dict(row) for row in rows.mappings()]


@dataclass(frozen=True, slots=True)
class KernelPlace:
    kernel_id: str
    agent_id: str
    address: str
    agent_status: str


async def main_kernel(engine: AsyncEngine, session_id: str) -> KernelPlace | None:
    """Where the main kernel is or was last; None if it never had a node."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT k.id, a.id AS agent, a.address, a.status FROM kernels k JOIN agents a ON a.id = k.agent_id"
                " WHERE k.session_id = :id AND k.role = 'main'"
            ),
            {"id": session_id},
        )
        row = rows.first()
    return None if row is None else KernelPlace(str(row.id), row.agent, row.address, row.status)


async def cluster(engine: AsyncEngine) -> dict[str, Any]:
    """What all living nodes offer and hold, in base units."""
    async with engine.connect() as connection:
        slots = await connection.execute(
            text(
                "SELECT c.slot, sum(c.offered)::bigint AS capacity, sum(c.used)::bigint AS used FROM agent_slots c"
                " JOIN agents a ON a.id = c.agent_id WHERE a.status = 'ALIVE' GROUP BY c.slot ORDER BY c.slot"
            )
        )
        found = {
            row.slot: {"capacity": row.capacity, "used": row.used, "free": row.capacity - row.used} for row in slots
        }
        agents = await connection.execute(text("SELECT status, count(*) AS n FROM agents GROUP BY status"))
        by_status = {row.status: row.n for row in agents}
        counted = await connection.execute(
            text(f"SELECT s.status, count(*) AS n FROM sessions s WHERE {_LIVE} GROUP BY s.status")
        )
        live = {row.status: row.n for row in counted}
    return {
        "slots": found,
        "agents": {"alive": by_status.get("ALIVE", 0), "lost": by_status.get("LOST", 0)},
        "sessions": {"pending": live.get("PENDING", 0), "running": live.get("RUNNING", 0)},
    }
