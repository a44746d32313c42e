"""Resource groups: which nodes belong together, how they are given out, and who may use them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.db.limits import check_exist
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Head, Policy, PreemptionMode, Scope

Row = Mapping[str, Any]

_COLUMNS = (
    "g.name, g.description, g.policy, g.selector, g.options, g.allowed_domains, g.allowed_projects, g.allowed_keypairs"
)
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
# A lost node that holds nothing doesn't keep its group: it may never come back.
_AGENTS = (
    "(SELECT count(*) FROM agents a WHERE a.resource_group = g.name AND (a.status = 'ALIVE' OR EXISTS"
    " (SELECT 1 FROM allocations l WHERE l.agent_id = a.id AND l.released_at IS NULL)))"
)
_WAITING = "(SELECT count(*) FROM sessions s WHERE s.resource_group = g.name AND s.status = 'PENDING')"
_SESSIONS = f"(SELECT count(*) FROM sessions s WHERE s.resource_group = g.name AND {_LIVE})"
_COUNTS = f"{_AGENTS} AS agents, {_SESSIONS} AS sessions, {_WAITING} AS pending"


def policy_of(row: Row) -> Policy:
    """How the group decides: its columns, and the defaults of the options that were never set."""
    options, default = row["options"], Policy()
    return Policy(
        order=row["policy"],
        selector=row["selector"],
        head=Head(options.get("head", default.head)),
        ageing_per_hour=float(options.get("ageing_per_hour", default.ageing_per_hour)),
        skip_limit=int(options.get("skip_limit", default.skip_limit)),
        session_types=frozenset(options.get("session_types", default.session_types)),
        preemption=PreemptionMode(options.get("preemption", default.preemption)),
        preemption_min_run_s=float(options.get("preemption_min_run_s", default.preemption_min_run_s)),
        preemption_hold_s=float(options.get("preemption_hold_s", default.preemption_hold_s)),
        half_life_s=float(options.get("half_life_s", default.half_life_s)),
    )


async def policy_in_force(engine: AsyncEngine, name: str) -> Policy | None:
    """How the group decides now; None if it was removed."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT policy, selector, options FROM resource_groups WHERE name = :name AND removed_at IS NULL"),
            {"name": name},
        )
        row = rows.mappings().first()
    return None if row is None else policy_of(dict(row))


def allowed(row: Row, domain: str, project: str, keypair: str) -> bool:
    """Everybody, if nobody is named; else who is named by any of the three lists. `project` is `domain/project`."""
    lists = (row["allowed_domains"], row["allowed_projects"], row["allowed_keypairs"])
    return not any(lists) or any(one in names for one, names in zip((domain, project, keypair), lists, strict=True))


def may_see(row: Row, who: Principal) -> bool:
    """Whoever may use it from one of his projects, and whoever sees everything."""
    return who.sees_all or any(
        allowed(row, who.domain, f"{who.domain}/{project}", who.access_key) for project in {who.project, *who.projects}
    )


def may_use(row: Row, who: Principal) -> bool:
    """Whether its sessions may go there, from its project. Seeing everything is not enough."""
    return who.reach("resource-group:update").everywhere or allowed(
        row, who.domain, f"{who.domain}/{who.project}", who.access_key
    )


async def index(engine: AsyncEngine) -> list[Row]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS}, {_COUNTS} FROM resource_groups g WHERE g.removed_at IS NULL ORDER BY g.name")
        )
        return [dict(row) for row in rows.mappings()]


async def get(engine: AsyncEngine, name: str) -> Row:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS}, {_COUNTS} FROM resource_groups g WHERE g.name = :name AND g.removed_at IS NULL"),
            {"name": name},
        )
        row = rows.mappings().first()
    if row is None:
        raise unknown(name)
    return dict(row)


async def create(engine: AsyncEngine, who: Principal, name: str, columns: Row) -> None:
    """A new group, or a removed one again under its old name."""
    async with engine.begin() as connection:
        await _check_tenants(connection, columns)
        made = await connection.execute(
            text(
                "INSERT INTO resource_groups (name, description, policy, selector, options, allowed_domains,"
                " allowed_projects, allowed_keypairs) VALUES (:name, :description, :policy, :selector,"
                " CAST(:options AS jsonb), :allowed_domains, :allowed_projects, :allowed_keypairs)"
                " ON CONFLICT (name) DO UPDATE SET removed_at = NULL, description = excluded.description,"
                " policy = excluded.policy, selector = excluded.selector, options = excluded.options,"
                " allowed_domains = excluded.allowed_domains, allowed_projects = excluded.allowed_projects,"
                " allowed_keypairs = excluded.allowed_keypairs WHERE resource_groups.removed_at IS NOT NULL"
                " RETURNING name"
            ),
            {**columns, "name": name, "options": json.dumps(columns["options"])},
        )
        if made.first() is None:
            raise Conflict(f"there is a resource group {name!r} already", code="resource-group-exists")
        await _notify(connection, name)
        await audit.write(connection, who, "resource-group:create", name, after=columns)


async def change(engine: AsyncEngine, who: Principal, name: str, revise: Callable[[Row], Row]) -> None:
    """Writes what `revise` makes of the group's columns; nobody else changes them meanwhile. Live at once."""
    async with engine.begin() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS} FROM resource_groups g WHERE g.name = :name AND g.removed_at IS NULL FOR UPDATE"),
            {"name": name},
        )
        row = rows.mappings().first()
        if row is None:
            raise unknown(name)
        before = dict(row)
        columns = revise(dict(row))
        await _check_tenants(connection, columns)
        await connection.execute(
            text(
                "UPDATE resource_groups SET description = :description, policy = :policy, selector = :selector,"
                " options = CAST(:options AS jsonb), allowed_domains = :allowed_domains,"
                " allowed_projects = :allowed_projects, allowed_keypairs = :allowed_keypairs WHERE name = :name"
            ),
            {**columns, "name": name, "options": json.dumps(columns["options"])},
        )
        await _notify(connection, name)
        await audit.write(connection, who, "resource-group:update", name, before=before, after=columns)


async def remove(engine: AsyncEngine, who: Principal, name: str) -> None:
    """Nobody may use the group any more. Refused while nodes or live sessions belong to it."""
    async with engine.begin() as connection:
        # Submitting locks the row too (FOR KEY SHARE), so no session slips in between the count and the removal.
        found = await connection.execute(
            text(f"SELECT {_COLUMNS} FROM resource_groups g WHERE g.name = :name AND g.removed_at IS NULL FOR UPDATE"),
            {"name": name},
        )
        row = found.mappings().first()
        if row is None:
            raise unknown(name)
        counted = await connection.execute(
            text(f"SELECT {_COUNTS} FROM resource_groups g WHERE g.name = :name"), {"name": name}
        )
        counts = counted.one()
        if counts.agents or counts.sessions:
            raise Conflict(
                f"resource group {name!r} is in use: {counts.agents} agents and {counts.sessions} live sessions",
                code="resource-group-in-use",
                hint="end its sessions and start its agents with another MOORAGE_AGENT_RESOURCE_GROUP",
                data={"agents": counts.agents, "sessions": counts.sessions},
            )
        await connection.execute(
            text("UPDATE resource_groups SET removed_at = now() WHERE name = :name"), {"name": name}
        )
        await _notify(connection, name)
        await audit.write(connection, who, "resource-group:delete", name, before=dict(row))


def unknown(name: str) -> NotFound:
    return NotFound(f"there is no resource group {name[:64]!r}", code="unknown-resource-group")


async def _check_tenants(connection: AsyncConnection, columns: Row) -> None:
    for scope in (Scope.DOMAIN, Scope.PROJECT, Scope.KEYPAIR):
        await check_exist(connection, scope, columns[f"allowed_{scope}s"])


async def _notify(connection: AsyncConnection, name: str) -> None:
    await connection.execute(text("SELECT pg_notify(:channel, :name)"), {"channel": SCHEDULER_CHANNEL, "name": name})
