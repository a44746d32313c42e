"""Sessions as people see them: a new one's row, and every read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.db.tenancy import Principal
from moorage.domain.errors import Conflict, InvalidRequest, NotFound, Unsatisfiable
from moorage.domain.ids import new_id
from moorage.domain.resources import format_slots
from moorage.seal import Seal

_COLUMNS = (
    "s.id, s.name, s.status, CASE WHEN s.status = 'PENDING' AND s.waiting_because <> '' THEN s.waiting_because"
    " ELSE s.status_info END AS status_info, s.result, s.exit_code, s.reason, s.image, s.type, s.command,"
    " u.email AS user, p.name AS project, s.domain, s.resource_group, s.agent_id AS agent, s.priority, s.slots,"
    " s.attempt, s.created_at, s.status_changed, s.started_at, s.terminated_at, s.on_node_loss, s.pending_timeout_s,"
    " s.lifetime_s, s.batch_timeout_s, s.grace_s"
)
_FROM = " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PREFIX = re.compile(r"[0-9a-f-]{4,36}")


@dataclass(frozen=True, slots=True)
class NewSession:
    """A checked wish. Seconds; slots in base units."""

    name: str
    image: str
    type: str
    command: list[str]
    env: dict[str, str]
    slots: dict[str, int]
    priority: int
    resource_group: str
    on_node_loss: str
    pending_timeout_s: float
    lifetime_s: float
    batch_timeout_s: float
    grace_s: float
    idempotency_key: str | None = None
    idempotency_hash: str | None = None


async def insert(engine: AsyncEngine, seal: Seal, who: Principal, new: NewSession) -> tuple[Mapping[str, Any], bool]:
    """(row, True) for a new PENDING session, or (row, False) for the one this idempotency key made before."""
    earlier = await _made_before(engine, who, new)
    if earlier is not None:
        return earlier, False
    await _check_room(engine, new)
    session_id = new_id()
    try:
        async with engine.begin() as connection:
            await connection.execute(
                text(_INSERT),
                {
                    "id": session_id,
                    "name": new.name,
                    "user": who.user_id,
                    "project": who.project_id,
                    "domain": who.domain,
                    "group": new.resource_group,
                    "type": new.type,
                    "image": new.image,
                    "command": new.command,
                    "env": seal.seal(json.dumps(new.env).encode()) if new.env else None,
                    "slots": json.dumps(new.slots),
                    "priority": new.priority,
                    "on_node_loss": new.on_node_loss,
                    "pending": new.pending_timeout_s,
                    "lifetime": new.lifetime_s,
                    "batch": new.batch_timeout_s,
                    "grace": new.grace_s,
                    "key": new.idempotency_key,
                    "hash": new.idempotency_hash,
                    "kernel": new_id(),
                    "actor": f"user:{who.email}",
                },
            )
            await connection.execute(
                text("SELECT pg_notify(:channel, :group)"), {"channel": SCHEDULER_CHANNEL, "group": new.resource_group}
            )
    except IntegrityError as error:
        again = await _made_before(engine, who, new)
        if again is not None:
            return again, False
        if "one_live_session_of_a_name" in str(error):
            raise await _name_in_use(engine, who, new.name) from None
        raise
    row = await by_id(engine, session_id)
    assert row is not None
    return row, True


_INSERT = (
    "WITH s AS (INSERT INTO sessions (id, name, user_id, project_id, domain, resource_group, type, image, command, env,"
    " slots, priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s, status, result, attempt,"
    " idempotency_key, idempotency_hash) VALUES (:id, :name, :user, :project, :domain, :group, :type, :image, :command,"
    " :env, CAST(:slots AS jsonb), :priority, :on_node_loss, :pending, :lifetime, :batch, :grace, 'PENDING',"
    " 'UNDEFINED', 0, :key, :hash) RETURNING id),"
    " k AS (INSERT INTO kernels (id, session_id, role, idx) SELECT :kernel, id, 'main', 1 FROM s)"
    " INSERT INTO transitions (session_id, seq, to_status, actor, reason, message, attempt)"
    " SELECT id, 1, 'PENDING', :actor, '', '', 0 FROM s"
)


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
            hint=", ".join(f"{one['id']} is {one['name']}" for one in matches),
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


async def agents(engine: AsyncEngine) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT a.id, a.status, a.resource_group, a.address, a.architecture, a.runtime, a.status_changed,"
                " (SELECT jsonb_object_agg(c.slot, jsonb_build_object('capacity', c.offered, 'used', c.used))"
                "    FROM agent_slots c WHERE c.agent_id = a.id) AS slots,"
                " (SELECT count(DISTINCT l.session_id) FROM allocations l WHERE l.agent_id = a.id"
                "    AND l.released_at IS NULL) AS sessions"
                " FROM agents a ORDER BY a.id"
            )
        )
        return [dict(row) for row in rows.mappings()]


async def _made_before(engine: AsyncEngine, who: Principal, new: NewSession) -> Mapping[str, Any] | None:
    if new.idempotency_key is None:
        return None
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS}, s.idempotency_hash{_FROM} WHERE s.user_id = :user AND s.idempotency_key = :key"),
            {"user": who.user_id, "key": new.idempotency_key},
        )
        row = rows.mappings().first()
    if row is not None and row["idempotency_hash"] != new.idempotency_hash:
        raise Conflict(
            "this Idempotency-Key came with another request before; take a new key", code="idempotency-key-reused"
        )
    return None if row is None else dict(row)


async def _check_room(engine: AsyncEngine, new: NewSession) -> None:
    """Refuses what no living node of the group could hold even when it is empty. Without any node it waits."""
    async with engine.connect() as connection:
        group = await connection.execute(
            text("SELECT name FROM resource_groups WHERE name = :name"), {"name": new.resource_group}
        )
        if group.first() is None:
            raise InvalidRequest(
                f"there is no resource group {new.resource_group[:64]!r}",
                code="unknown-resource-group",
                data={"field": "resource_group"},
            )
        rows = await connection.execute(
            text(
                "SELECT a.id, c.slot, c.offered FROM agents a JOIN agent_slots c ON c.agent_id = a.id"
                " WHERE a.resource_group = :name AND a.status = 'ALIVE' AND a.schedulable"
            ),
            {"name": new.resource_group},
        )
        nodes: dict[str, dict[str, int]] = {}
        for row in rows:
            nodes.setdefault(row.id, {})[row.slot] = row.offered
    if nodes and not any(all(have.get(slot, 0) >= n for slot, n in new.slots.items()) for have in nodes.values()):
        largest = max(nodes.values(), key=lambda have: (have.get("cpu", 0), have.get("mem", 0)))
        raise Unsatisfiable(
            f"asked {format_slots(new.slots)}; the largest node has {format_slots(largest)}",
            hint="ask for less, or add a larger node",
            data={"asked": new.slots, "largest": largest},
        )


async def _name_in_use(engine: AsyncEngine, who: Principal, name: str) -> Conflict:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT s.id FROM sessions s WHERE s.user_id = :user AND s.name = :name AND {_LIVE}"),
            {"user": who.user_id, "name": name},
        )
        existing = rows.scalar()
    return Conflict(
        f"you have a live session named {name!r}; stop it or take another name",
        code="session-already-exists",
        data={"existingSessionId": str(existing) if existing else None},
    )
