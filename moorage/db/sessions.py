"""Sessions as people see them: every read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import audit, usage
from moorage.db.engine import reading
from moorage.db.reach import alternatives, within
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.tenancy import Principal

# Checked, and nothing was heard of it yet: it is starting.
_HEALTH = (
    "CASE WHEN k.health <> '' THEN k.health WHEN s.health IS NOT NULL AND s.status = 'RUNNING' AND k.role = 'main'"
    " THEN 'starting' ELSE '' END"
)
_COLUMNS = (
    "s.id, s.name, s.status, CASE WHEN s.status = 'PENDING' AND s.waiting_because <> '' THEN s.waiting_because"
    " ELSE s.status_info END AS status_info, s.result, s.exit_code, s.reason, s.image, s.type, s.command,"
    " u.email AS user, p.name AS project, s.domain, s.resource_group, s.agent_id AS agent, s.priority, s.slots,"
    " s.attempt, s.created_at, s.status_changed, s.started_at, s.terminated_at, s.on_node_loss, s.pending_timeout_s,"
    " s.lifetime_s, s.batch_timeout_s, s.grace_s, s.access_key, s.cluster_size, s.cluster_mode, s.not_before,"
    " s.on_dependency_failure, s.architecture, s.designated AS agents, s.preemptible, s.job_priority,"
    " s.restart_policy, s.max_restarts, s.restarts, s.network, s.idle, s.kept_until,"
    f" (SELECT {_HEALTH} FROM kernels k WHERE k.session_id = s.id AND k.role = 'main') AS health_status"
)
# Of one session, where it costs no other query: its kernels, main first, and what it waits or waited for.
_WHOLE = (
    f"{_COLUMNS}, s.health, (SELECT jsonb_agg(jsonb_build_object('role', k.role, 'idx', k.idx, 'agent', k.agent_id,"
    f" 'container', k.container_id, 'health', {_HEALTH}, 'health_message', k.health_message)"
    " ORDER BY k.role, k.idx) FROM kernels k WHERE k.session_id = s.id) AS kernels,"
    " COALESCE((SELECT jsonb_agg(jsonb_build_object('id', t.id, 'name', t.name, 'status', t.status, 'result', t.result)"
    " ORDER BY t.name, t.id) FROM session_dependencies d JOIN sessions t ON t.id = d.depends_on"
    f" WHERE d.session_id = s.id), '[]') AS dependencies, {usage.OF_A_SESSION} AS usage"
)
_FROM = " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PREFIX = re.compile(r"[0-9a-f-]{4,36}")


async def by_id(engine: AsyncEngine, session_id: str) -> Mapping[str, Any] | None:
    async with reading(engine) as connection:
        record = await connection.fetchrow(f"SELECT {_WHOLE}{_FROM} WHERE s.id = $1", session_id)
    return None if record is None else dict(record)


async def find(engine: AsyncEngine, who: Principal, ref: str, permission: str = "session:read") -> Mapping[str, Any]:
    """By id, else live name, else newest ended one of that name, else unambiguous id prefix; of what `who` may see.

    NotFound for what may not even be seen; Forbidden for what may be seen, but not this done with it. Its `last_lines`
    are for those who may read its log.
    """
    values: list[Any] = [ref, ref, who.user_id]
    seen = within(who.reach("session:read"), values, **_OWNER)
    async with reading(engine) as connection:
        found = await connection.fetch(find_query(ref, seen), *values)
    if not found:
        raise NotFound(f"no session {ref[:80]!r}", hint="moor ps -a lists yours")
    if found[0]["name"] != ref and len(found) > 1:
        matches = [{"id": str(row["id"]), "name": row["name"], "status": row["status"]} for row in found]
        raise Conflict(
            f"{ref!r} begins the ids of {len(found)} sessions or more; give more of it",
            code="too-many-sessions-matched",
            hint=", ".join(f"{one['id']} is {one['name']}" for one in matches),
            data={"matches": matches},
        )
    row = dict(found[0])
    owner_id, project_id = str(row.pop("owner_id")), str(row.pop("project_id"))
    if not who.reach("session:logs").covers(domain=row["domain"], projects=(project_id,), user=owner_id):
        row["last_lines"] = ""
    if permission != "session:read":
        who.demand(permission, domain=row["domain"], projects=(project_id,), user=owner_id)
    return row


async def record_asked(
    engine: AsyncEngine, who: Principal, operation: str, session_id: str, *, after: Mapping[str, Any]
) -> None:
    """The audit says what is about to be asked of a session; without that, it must not be asked."""
    async with engine.begin() as connection:
        rows = await connection.execute(
            text("SELECT user_id::text, project_id::text, domain FROM sessions WHERE id = :id"), {"id": session_id}
        )
        owner = rows.mappings().one()
        await audit.write(connection, who, operation, session_id, after=after, outcome="asked", **owner)


_OWNER = {"user": "s.user_id", "project": "s.project_id", "domain": "s.domain"}


def find_query(ref: str, seen: str = "true") -> str:
    """Values: what is looked for, the same as text, the user's id, then those of the condition `seen`."""
    if _UUID.fullmatch(ref):
        where = "s.id = $1"
    elif _PREFIX.fullmatch(ref):
        where = "(s.name = $1 OR s.id::text LIKE $1 || '%')"
    else:
        where = "s.name = $1"
    order = f" ORDER BY (s.name = $2) DESC, ({_LIVE}) DESC, (s.user_id = $3) DESC, s.created_at DESC LIMIT 6"
    return f"SELECT {_WHOLE}, s.last_lines, s.user_id AS owner_id, s.project_id{_FROM} WHERE {where} AND {seen}{order}"


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
    conditions: list[str] = []
    values: list[Any] = []
    seen = alternatives(who.reach("session:read"), values, **_OWNER)
    if statuses:
        values.append(list(statuses))
        conditions.append(f"s.status = ANY(${len(values)})")
    elif not include_ended:
        conditions.append(_LIVE)
    if name:
        values.append(name)
        conditions.append(f"s.name = ${len(values)}")
    ways = [" AND ".join([way, *conditions]) for way in seen]
    async with reading(engine) as connection:
        found = await connection.fetch(page_query(ways, len(values)), *values, limit, offset)
        if found or not offset:
            total = found[0]["total"] if found else 0
        else:  # behind the last page
            total = await connection.fetchval(f"SELECT count(*) FROM sessions s WHERE {_any(ways)}", *values)
    rows: list[Mapping[str, Any]] = []
    for record in found:
        row = dict(record)
        del row["total"]
        rows.append(row)
    return rows, int(total)


def page_query(ways: Sequence[str] = (_LIVE,), values: int = 0) -> str:
    """Values: those of the conditions, limit, offset. A row needs one of them; it has `total`, the rows on all pages.

    Each is looked at by its own index, newest first: over all of them at once PostgreSQL would rather go back through
    everybody's sessions until it has found enough.
    """
    newest = f"ORDER BY s.created_at DESC, s.id LIMIT ${values + 1}::bigint"
    page = f"{newest} OFFSET ${values + 2}::bigint"
    total = f"(SELECT count(*) FROM sessions s WHERE {_any(ways)}) AS total"
    if len(ways) == 1:
        return f"SELECT {_COLUMNS}, {total}{_FROM} WHERE {ways[0]} {page}"
    each = " UNION ".join(
        f"(SELECT s.id, s.created_at FROM sessions s WHERE {way} {newest} + ${values + 2}::bigint)" for way in ways
    )
    of_page = f"SELECT s.id FROM ({each}) s {page}"
    return (
        f"WITH page AS MATERIALIZED ({of_page}) SELECT {_COLUMNS}, {total}{_FROM} JOIN page ON page.id = s.id"
        " ORDER BY s.created_at DESC, s.id"
    )


def _any(ways: Sequence[str]) -> str:
    return ways[0] if len(ways) == 1 else f"({' OR '.join(f'({way})' for way in ways)})"


async def waiting(engine: AsyncEngine, who: Principal, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a queue shows of each; of one that `who` may not read nothing but its place."""
    values: list[Any] = [[one for one in ids if _UUID.fullmatch(one)]]  # a made-up job of a simulation is none
    seen = within(who.reach("session:read"), values, **_OWNER)
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT s.id::text, s.name, u.email AS user, s.priority, s.slots, s.cluster_size, s.created_at,"
            f" s.waiting_cause AS cause, s.waiting_because AS message{_FROM} WHERE s.id = ANY($1::uuid[]) AND {seen}",
            *values,
        )
    return {row["id"]: {**row, "created_at": row["created_at"].isoformat()} for row in rows}


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
