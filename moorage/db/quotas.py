"""What holds for an owner now: its own limits before its policy's, with the grants in force, and what is used of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import owners
from moorage.db.engine import reading
from moorage.domain.resources import Slots
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Scope

CEILINGS = (
    "max_containers",
    "max_priority",
    "max_job_priority",
    "max_lifetime_s",
    "idle_timeout_s",
    "idle",
    "allowed_folder_hosts",
)
"""What one session may have, beside what all of an owner may have together."""
AMOUNTS = ("max_sessions", "max_slots", "max_pending", "max_pending_slots")

_COLUMNS = ", ".join(("scope", "name", "policy", *AMOUNTS, *CEILINGS))
_OF_ONE = (
    "((scope = 'keypair' AND name = :keypair) OR (scope = 'user' AND name = :user)"
    " OR (scope = 'project' AND name = :project) OR (scope = 'domain' AND name = :domain))"
)
# Whoever has no key that works is held to what a new one would allow.
_WITHOUT_KEY = (
    " UNION ALL SELECT 'keypair', '', name, NULL, '{}', NULL, '{}', " + ", ".join(CEILINGS) + " FROM policies"
    " WHERE kind = 'keypair' AND name = 'default' AND :keypair = ''"
)
# One seed for those who submit, one for those who place: neither waits for the other.
_SUBMITTING, _PLACING = 7, 8


@dataclass(frozen=True, slots=True)
class Quota:
    """None and missing slots are no limit. Slots in base units, seconds."""

    scope: Scope
    name: str
    policy: str | None
    max_sessions: int | None
    max_slots: Slots
    max_pending: int | None
    max_pending_slots: Slots
    max_containers: int | None = None
    max_priority: int | None = None
    max_job_priority: int | None = None
    max_lifetime_s: float | None = None
    idle_timeout_s: float | None = None
    allowed_folder_hosts: list[str] | None = None
    idle: dict[str, Any] | None = None  # an IdlePolicy without `after_s`

    @property
    def limits_waiting(self) -> bool:
        return self.max_pending is not None or bool(self.max_pending_slots)


async def applying(connection: AsyncConnection, who: Principal) -> list[Quota]:
    """Those of the key, the user, the project and the domain, in that order."""
    return await of_owners(connection, who.access_key, who.email, who.project, who.domain)


async def of_owners(connection: AsyncConnection, key: str, email: str, project: str, domain: str) -> list[Quota]:
    """The same of whoever these are."""
    values = {"keypair": key, "user": email, "project": f"{domain}/{project}", "domain": domain}
    rows = await connection.execute(text(f"SELECT {_COLUMNS} FROM quotas WHERE {_OF_ONE}{_WITHOUT_KEY}"), values)
    found = [Quota(**{**row, "scope": Scope(row["scope"])}) for row in rows.mappings()]
    return sorted(found, key=lambda quota: list(Scope).index(quota.scope))


async def take_turns_submitting(connection: AsyncConnection, quotas: Iterable[Quota]) -> None:
    """Until the commit nobody else submits for these owners."""
    await _take_turns(connection, [(str(one.scope), one.name) for one in quotas], _SUBMITTING)


async def take_turns_placing(connection: AsyncConnection, keys: Iterable[tuple[str, str]]) -> None:
    """Until the commit nobody else places for these owners."""
    await _take_turns(connection, keys, _PLACING)


async def _take_turns(connection: AsyncConnection, keys: Iterable[tuple[str, str]], seed: int) -> None:
    """In the order of their names, so that two never wait for each other."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(owner, :seed)) FROM unnest(CAST(:owners AS text[])) owner"),
        {"owners": sorted({f"{scope}:{name}" for scope, name in keys}), "seed": seed},
    )


async def highest_grant(connection: AsyncConnection, quota: Quota, slot: str) -> int:
    """The most of a slot that is granted beside the base at one moment from now on."""
    rows = await connection.execute(
        text(
            "SELECT LEAST(COALESCE(max(together), 0), 4e18)::bigint FROM (SELECT sum(o.amount) AS together"
            " FROM grants g JOIN grants o ON (o.scope, o.name, o.slot) = (g.scope, g.name, g.slot)"
            "   AND o.revoked_at IS NULL AND o.starts_at <= GREATEST(g.starts_at, now())"
            "   AND GREATEST(g.starts_at, now()) < o.ends_at"
            " WHERE g.scope = :scope AND g.name = :name AND g.slot = :slot AND g.revoked_at IS NULL"
            "   AND g.ends_at > now() GROUP BY g.id) moments"
        ),
        {"scope": str(quota.scope), "name": quota.name, "slot": slot},
    )
    return int(rows.scalar_one())


async def granted_now(connection: AsyncConnection, quota: Quota, slot: str) -> int:
    rows = await connection.execute(
        text("SELECT amount FROM grants_in_force WHERE scope = :scope AND name = :name AND slot = :slot"),
        {"scope": str(quota.scope), "name": quota.name, "slot": slot},
    )
    return int(rows.scalar_one_or_none() or 0)


async def own(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """Of the caller's key, of itself, of each of its projects (the main one first), and of its domain, with the use."""
    projects = sorted(who.projects.items(), key=lambda one: (one[1] != who.project_id, one[0]))
    keys = [(Scope.KEYPAIR, who.access_key, who.access_key), (Scope.USER, who.email, who.user_id)]
    keys += [(Scope.PROJECT, f"{who.domain}/{name}", project_id) for name, project_id in projects]
    keys += [(Scope.DOMAIN, who.domain, who.domain)]
    async with reading(engine) as connection:
        return [await _shown(connection, scope, name, held_by) for scope, name, held_by in keys if name]


async def of(engine: AsyncEngine, who: Principal, scope: Scope, name: str) -> dict[str, Any]:
    """Of one owner, with the use; NotFound unless `who` may read its limits."""
    async with engine.connect() as connection:
        owner = await owners.find(connection, who, scope, name, locked=False)
    held_by = {Scope.KEYPAIR: name, Scope.USER: owner.user_id, Scope.PROJECT: owner.project_id, Scope.DOMAIN: name}
    async with reading(engine) as raw:
        return await _shown(raw, scope, name, held_by[scope])


async def _shown(connection: asyncpg.Connection, scope: Scope, name: str, held_by: str) -> dict[str, Any]:
    row = await connection.fetchrow(f"SELECT {_COLUMNS} FROM quotas WHERE {owner_is(scope)}", name)
    grants = await connection.fetch(
        "SELECT id::text, slot, amount, starts_at, ends_at, reason FROM grants WHERE scope = $1 AND name = $2"
        " AND revoked_at IS NULL AND ends_at > now() ORDER BY starts_at, id",
        str(scope),
        name,
    )
    quota: Mapping[str, Any] = dict(row) if row is not None else {}
    held = await connection.fetchrow(use_query(scope), held_by)
    used: Mapping[str, int] = held["slots"] or {}
    limits: Mapping[str, int] = quota.get("max_slots") or {}
    waiting: Mapping[str, int] = quota.get("max_pending_slots") or {}
    asked: Mapping[str, int] = held["pending_slots"] or {}
    return {
        "scope": str(scope),
        "name": name,
        "policy": quota.get("policy"),
        "sessions": {"used": held["sessions"], "limit": quota.get("max_sessions")},
        "pending": {"used": held["pending"], "limit": quota.get("max_pending")},
        "slots": _used_of(used, limits),
        "pending_slots": _used_of(asked, waiting),
        "ceilings": {name: quota.get(name) for name in CEILINGS},
        "grants": [
            {**one, "starts_at": one["starts_at"].isoformat(), "ends_at": one["ends_at"].isoformat()} for one in grants
        ],
    }


def _used_of(used: Mapping[str, int], limits: Mapping[str, int]) -> dict[str, dict[str, int | None]]:
    return {slot: {"used": used.get(slot, 0), "limit": limits.get(slot)} for slot in sorted({*used, *limits})}


def owner_is(scope: Scope) -> str:
    """A condition on the view whose scope is written out, so that only its table is looked at."""
    return f"scope = '{scope}' AND name = $1"


# The column of sessions that tells whose they are, and its type.
HELD_BY = {
    Scope.KEYPAIR: ("s.access_key", "text"),
    Scope.USER: ("s.user_id", "uuid"),
    Scope.PROJECT: ("s.project_id", "uuid"),
    Scope.DOMAIN: ("s.domain", "text"),
}
_HOLDS = "('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING', 'RESTARTING', 'RESIZING', 'TERMINATING')"
# So that the index of live sessions serves.
LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
# What is held now, as the scheduler counts it; of a lost node it doesn't count.
_HELD = (
    "a.slot, sum(a.amount)::bigint AS amount, count(DISTINCT s.id) AS sessions FROM sessions s"
    " JOIN allocations a ON a.session_id = s.id AND a.released_at IS NULL AND a.fenced_at IS NULL"
    f" WHERE {LIVE} AND s.status IN {_HOLDS}"
)


def of_owner(scope: Scope, value: str) -> str:
    """A condition for the sessions of one owner."""
    column, kind = HELD_BY[scope]
    return f"{column} = CAST({value} AS {kind})"


def held_by_many_query(scope: Scope) -> str:
    """A row for each owner of `:owners` and slot: owner, slot, amount, and how many sessions hold some of it."""
    column, kind = HELD_BY[scope]
    which = f"{column} = ANY(CAST(:owners AS {kind}[]))"
    return f"SELECT {column}::text AS owner, {_HELD} AND {which} GROUP BY {column}, a.slot"


def use_query(scope: Scope) -> str:
    """One row: sessions and slots held, and those that wait (over all kernels)."""
    mine = of_owner(scope, "$1")
    return (
        f"WITH held AS (SELECT {_HELD} AND {mine} GROUP BY a.slot), waiting AS (SELECT s.slots, s.cluster_size"
        f" FROM sessions s WHERE {mine} AND {LIVE} AND s.status = 'PENDING') SELECT"
        " (SELECT COALESCE(max(sessions), 0) FROM held) AS sessions,"
        " (SELECT jsonb_object_agg(slot, amount) FROM held) AS slots,"
        " (SELECT count(*) FROM waiting) AS pending,"
        " (SELECT jsonb_object_agg(key, amount) FROM (SELECT e.key, LEAST(sum(e.value::numeric * w.cluster_size),"
        "   9e18)::bigint AS amount FROM waiting w, jsonb_each_text(w.slots) e GROUP BY e.key) sums) AS pending_slots"
    )
