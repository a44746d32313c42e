"""Exceptions of one owner: what it may have at once whatever its policy says, and its weight when shares are compared.

A name is an access key, an e-mail address, `domain/project` or a domain. Running sessions are limited by the scheduler;
waiting ones here, in the transaction that submits them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import owners, quotas
from moorage.db.engine import reading
from moorage.db.quotas import CEILINGS, Quota
from moorage.db.wake import wake_schedulers
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.resources import Slots, format_slot
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Scope


@dataclass(frozen=True, slots=True)
class Limit:
    """None and missing slots are as the policy says. Slots in base units; pending ones count every kernel of a gang."""

    max_sessions: int | None = None
    max_slots: Slots = field(default_factory=dict)
    max_pending: int | None = None
    max_pending_slots: Slots = field(default_factory=dict)
    weight: float = 1.0
    max_containers: int | None = None
    max_priority: int | None = None
    max_job_priority: int | None = None
    max_lifetime_s: float | None = None
    idle_timeout_s: float | None = None
    allowed_folder_hosts: list[str] | None = None
    idle: dict[str, Any] | None = None


_FIELDS = ("max_sessions", "max_slots", "max_pending", "max_pending_slots", "weight", *CEILINGS)
_COLUMNS = ", ".join(("scope", "name", *_FIELDS))
_JSON = ("max_slots", "max_pending_slots", "idle")
_GIVEN = ", ".join(f"CAST(:{one} AS jsonb)" if one in _JSON else f":{one}" for one in _FIELDS)
_EXISTING = {
    Scope.KEYPAIR: "SELECT access_key FROM keypairs WHERE access_key = ANY(:names)",
    Scope.USER: "SELECT email FROM users WHERE email = ANY(:names)",
    Scope.PROJECT: "SELECT domain || '/' || name FROM projects WHERE domain || '/' || name = ANY(:names)",
    Scope.DOMAIN: "SELECT name FROM domains WHERE name = ANY(:names)",
}


async def index(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """Those of whom `who` may read limits: superadmins of all, others of themselves and of what they administer."""
    values: list[Any] = []
    seen = owners.visible(who, "limit:read", values)
    async with reading(engine) as connection:
        rows = await connection.fetch(f"SELECT {_COLUMNS} FROM limits WHERE {seen} ORDER BY scope, name", *values)
    return [dict(row) for row in rows]


async def put(engine: AsyncEngine, who: Principal, scope: Scope, name: str, limit: Limit) -> dict[str, Any]:
    """The owner's limits are these, whatever they were. Live at once; what runs already goes on."""
    async with engine.begin() as connection:
        owner = await owners.find(connection, who, scope, name)
        owners.demand(who, "limit:update", owner)
        await check_slots(connection, {**limit.max_slots, **limit.max_pending_slots})
        before = await _locked(connection, scope, name)
        rows = await connection.execute(
            text(
                f"INSERT INTO limits ({_COLUMNS}) VALUES (:scope, :name, {_GIVEN}) ON CONFLICT (scope, name) DO UPDATE"
                f" SET {', '.join(f'{one} = excluded.{one}' for one in _FIELDS)} RETURNING {_COLUMNS}"
            ),
            {
                **asdict(limit),
                "scope": str(scope),
                "name": name,
                "max_slots": json.dumps(limit.max_slots),
                "max_pending_slots": json.dumps(limit.max_pending_slots),
                "idle": json.dumps(limit.idle) if limit.idle is not None else None,
            },
        )
        after = dict(rows.mappings().one())
        await wake_schedulers(connection)
        await owners.write_audit(connection, who, "limit:update", owner, before=before, after=after)
        return after


async def remove(engine: AsyncEngine, who: Principal, scope: Scope, name: str) -> None:
    """The policy alone holds again, and the weight is 1."""
    async with engine.begin() as connection:
        owner = await owners.find(connection, who, scope, name)
        owners.demand(who, "limit:delete", owner)
        before = await _locked(connection, scope, name)
        if before is None:
            raise NotFound(f"there is no limit for {scope} {name[:254]!r}", code="unknown-limit")
        await connection.execute(
            text("DELETE FROM limits WHERE scope = :scope AND name = :name"), {"scope": str(scope), "name": name}
        )
        await wake_schedulers(connection)
        await owners.write_audit(connection, who, "limit:delete", owner, before=before)


async def check_pending(connection: AsyncConnection, who: Principal, slots: Slots, kernels: int) -> None:
    """Refuses what would exceed a limit on waiting sessions. Those who submit for the same owner take turns."""
    limiting = await _limiting_waiting(connection, who)
    if not limiting:
        return
    await quotas.take_turns_submitting(connection, limiting)
    asked = {name: amount * kernels for name, amount in slots.items()}
    for quota in await _limiting_waiting(connection, who):  # it may have been changed while we waited for our turn
        await _check_pending(connection, who, quota, asked)


async def _limiting_waiting(connection: AsyncConnection, who: Principal) -> list[Quota]:
    return [quota for quota in await quotas.applying(connection, who) if quota.limits_waiting]


async def _check_pending(connection: AsyncConnection, who: Principal, quota: Quota, asked: Slots) -> None:
    now, held = await _pending(connection, quota.scope, who, quota.max_pending_slots)
    if quota.max_pending is not None and now + 1 > quota.max_pending:
        words = f"{now} sessions wait already; at most {quota.max_pending} are allowed"
        raise _exceeded(quota, words, {"limit": quota.max_pending, "now": now, "asked": 1})
    for slot, limit in quota.max_pending_slots.items():
        if asked.get(slot, 0) and held.get(slot, 0) + asked[slot] > limit:
            data = {"limit": limit, "now": held.get(slot, 0), "asked": asked[slot], "slot": slot}
            raise _exceeded(quota, _words(slot, data), data)


async def check_exist(connection: AsyncConnection, scope: Scope, names: Iterable[str]) -> None:
    """Refuses a name of nobody: a slip of the pen would be a limit that never applies."""
    wanted = list(names)
    if not wanted:
        return
    rows = await connection.execute(text(_EXISTING[scope]), {"names": wanted})
    missing = sorted(set(wanted) - set(rows.scalars()))
    if missing:
        raise InvalidRequest(
            f"there is no {scope} {missing[0][:254]!r}; its name is {owners.NAMED[scope]}",
            code=f"unknown-{scope}",
            data={"unknown": missing},
        )


async def check_slots(connection: AsyncConnection, slots: Mapping[str, int]) -> None:
    """Refuses a slot that no node ever offered, with those that are known."""
    others = set(slots) - {"cpu", "mem"}
    if not others:
        return
    rows = await connection.execute(text("SELECT DISTINCT slot FROM agent_slots WHERE slot NOT IN ('cpu', 'mem')"))
    known = ["cpu", "mem", *sorted(rows.scalars())]
    unknown = sorted(others - set(known))
    if unknown:
        raise InvalidRequest(
            f"unknown resource {', '.join(unknown)[:200]}; allowed are {', '.join(known)}",
            code="unknown-slot",
            data={"unknown": unknown, "allowed": known},
        )


async def _locked(connection: AsyncConnection, scope: Scope, name: str) -> dict[str, Any] | None:
    rows = await connection.execute(
        text(f"SELECT {_COLUMNS} FROM limits WHERE scope = :scope AND name = :name FOR UPDATE"),
        {"scope": str(scope), "name": name},
    )
    row = rows.mappings().one_or_none()
    return None if row is None else dict(row)


async def _pending(
    connection: AsyncConnection, scope: Scope, who: Principal, slots: Iterable[str]
) -> tuple[int, Slots]:
    """(waiting sessions, what they ask of these slots over all kernels)."""
    names = dict(enumerate(slots))
    sums = "".join(
        f", COALESCE(sum((s.slots ->> :slot{number})::numeric * s.cluster_size), 0) AS held{number}" for number in names
    )
    rows = await connection.execute(
        text(
            f"SELECT count(*) AS n{sums} FROM sessions s WHERE {quotas.of_owner(scope, ':owner')} AND {quotas.LIVE}"
            " AND s.status = 'PENDING'"
        ),
        {"owner": _held_by(who)[scope], **{f"slot{number}": name for number, name in names.items()}},
    )
    row = rows.mappings().one()
    return int(row["n"]), {name: int(row[f"held{number}"]) for number, name in names.items()}


def _words(slot: str, data: Mapping[str, Any]) -> str:
    limit, now, asked = (format_slot(slot, data[key]) for key in ("limit", "now", "asked"))
    return f"sessions with {slot} {now} wait already and this one asks {asked}; at most {limit} are allowed"


def _held_by(who: Principal) -> dict[Scope, str]:
    return {
        Scope.KEYPAIR: who.access_key,
        Scope.USER: who.user_id,
        Scope.PROJECT: who.project_id,
        Scope.DOMAIN: who.domain,
    }


def _exceeded(quota: Quota, words: str, data: Mapping[str, object]) -> Conflict:
    return Conflict(
        f"of {quota.scope} {quota.name}, {words}",
        code="pending-limit",
        hint="wait until some have started, or stop them",
        data={"scope": str(quota.scope), "name": quota.name, **data},
    )
