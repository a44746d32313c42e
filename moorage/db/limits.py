"""What an owner may have at once, and its weight when shares are compared.

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

from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.resources import Slots, format_slot
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Scope


@dataclass(frozen=True, slots=True)
class Limit:
    """None and missing slots are no limit. Slots in base units; pending ones count every kernel of a gang."""

    max_sessions: int | None = None
    max_slots: Slots = field(default_factory=dict)
    max_pending: int | None = None
    max_pending_slots: Slots = field(default_factory=dict)
    weight: float = 1.0


_COLUMNS = "scope, name, max_sessions, max_slots, max_pending, max_pending_slots, weight"
_EXISTING = {
    Scope.KEYPAIR: "SELECT access_key FROM keypairs WHERE access_key = ANY(:names)",
    Scope.USER: "SELECT email FROM users WHERE email = ANY(:names)",
    Scope.PROJECT: "SELECT domain || '/' || name FROM projects WHERE domain || '/' || name = ANY(:names)",
    Scope.DOMAIN: "SELECT name FROM domains WHERE name = ANY(:names)",
}
_NAMED = {
    Scope.KEYPAIR: "an access key",
    Scope.USER: "a user's e-mail address",
    Scope.PROJECT: "domain/project",
    Scope.DOMAIN: "a domain",
}
# Whose waiting sessions count for a scope, with the values of `owner_of`.
_PENDING = {
    Scope.KEYPAIR: "s.access_key = :keypair",
    Scope.USER: "s.user_id = :user_id",
    Scope.PROJECT: "s.project_id = :project_id",
    Scope.DOMAIN: "s.domain = :domain",
}


async def index(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """All limits for superadmins, else those that apply to `who`."""
    own = "" if who.sees_all else f" WHERE {_APPLIES}"
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS} FROM limits{own} ORDER BY scope, name"), {} if who.sees_all else _owner(who)
        )
        return [dict(row) for row in rows.mappings()]


async def put(engine: AsyncEngine, scope: Scope, name: str, limit: Limit) -> dict[str, Any]:
    """The owner's limits are these, whatever they were. Live at once; what runs already goes on."""
    values = asdict(limit)
    async with engine.begin() as connection:
        await check_exist(connection, scope, [name])
        await check_slots(connection, {**limit.max_slots, **limit.max_pending_slots})
        rows = await connection.execute(
            text(
                f"INSERT INTO limits ({_COLUMNS}) VALUES (:scope, :name, :max_sessions, CAST(:max_slots AS jsonb),"
                " :max_pending, CAST(:max_pending_slots AS jsonb), :weight) ON CONFLICT (scope, name) DO UPDATE SET"
                " max_sessions = excluded.max_sessions, max_slots = excluded.max_slots,"
                " max_pending = excluded.max_pending, max_pending_slots = excluded.max_pending_slots,"
                f" weight = excluded.weight RETURNING {_COLUMNS}"
            ),
            {
                **values,
                "scope": str(scope),
                "name": name,
                "max_slots": json.dumps(limit.max_slots),
                "max_pending_slots": json.dumps(limit.max_pending_slots),
            },
        )
        await _notify_all(connection)
        return dict(rows.mappings().one())


async def remove(engine: AsyncEngine, scope: Scope, name: str) -> None:
    async with engine.begin() as connection:
        gone = await connection.execute(
            text("DELETE FROM limits WHERE scope = :scope AND name = :name RETURNING 1"),
            {"scope": str(scope), "name": name},
        )
        if gone.first() is None:
            raise NotFound(f"there is no limit for {scope} {name[:254]!r}", code="unknown-limit")
        await _notify_all(connection)


async def check_pending(connection: AsyncConnection, who: Principal, slots: Slots, kernels: int) -> None:
    """Refuses what would exceed a limit on waiting sessions. Those who submit for the same owner take turns."""
    rows = await connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM limits WHERE {_APPLIES} AND (max_pending IS NOT NULL"
            " OR max_pending_slots <> '{}') ORDER BY scope, name FOR UPDATE"
        ),
        _owner(who),
    )
    asked = {name: amount * kernels for name, amount in slots.items()}
    for row in rows.mappings().all():
        scope = Scope(row["scope"])
        now, held = await _pending(connection, scope, who, row["max_pending_slots"])
        if row["max_pending"] is not None and now + 1 > row["max_pending"]:
            data = {"limit": row["max_pending"], "now": now, "asked": 1}
            words = f"{now} sessions wait already; at most {row['max_pending']} are allowed"
            raise _exceeded(scope, row["name"], words, data)
        for slot, limit in row["max_pending_slots"].items():
            if asked.get(slot, 0) and held.get(slot, 0) + asked[slot] > limit:
                data = {"limit": limit, "now": held.get(slot, 0), "asked": asked[slot], "slot": slot}
                raise _exceeded(scope, row["name"], _words(slot, data), data)


async def check_exist(connection: AsyncConnection, scope: Scope, names: Iterable[str]) -> None:
    """Refuses a name of nobody: a slip of the pen would be a limit that never applies."""
    wanted = list(names)
    if not wanted:
        return
    rows = await connection.execute(text(_EXISTING[scope]), {"names": wanted})
    missing = sorted(set(wanted) - set(rows.scalars()))
    if missing:
        raise InvalidRequest(
            f"there is no {scope} {missing[0][:254]!r}; its name is {_NAMED[scope]}",
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


_APPLIES = (
    "((scope = 'keypair' AND name = :keypair) OR (scope = 'user' AND name = :user)"
    " OR (scope = 'project' AND name = :project) OR (scope = 'domain' AND name = :domain))"
)


def _owner(who: Principal) -> dict[str, str]:
    return {
        "keypair": who.access_key,
        "user": who.email,
        "project": f"{who.domain}/{who.project}",
        "domain": who.domain,
    }


async def _pending(
    connection: AsyncConnection, scope: Scope, who: Principal, slots: Iterable[str]
) -> tuple[int, Slots]:
    """(waiting sessions, what they ask of these slots over all kernels)."""
    names = dict(enumerate(slots))
    sums = "".join(
        f", COALESCE(sum((s.slots ->> :slot{number})::bigint * s.cluster_size), 0)::bigint AS held{number}"
        for number in names
    )
    rows = await connection.execute(
        text(f"SELECT count(*) AS n{sums} FROM sessions s WHERE s.status = 'PENDING' AND {_PENDING[scope]}"),
        {
            "keypair": who.access_key,
            "user_id": who.user_id,
            "project_id": who.project_id,
            "domain": who.domain,
            **{f"slot{number}": name for number, name in names.items()},
        },
    )
    row = rows.mappings().one()
    return int(row["n"]), {name: row[f"held{number}"] for number, name in names.items()}


def _words(slot: str, data: Mapping[str, Any]) -> str:
    limit, now, asked = (format_slot(slot, data[key]) for key in ("limit", "now", "asked"))
    return f"sessions with {slot} {now} wait already and this one asks {asked}; at most {limit} are allowed"


def _exceeded(scope: Scope, name: str, words: str, data: Mapping[str, object]) -> Conflict:
    return Conflict(
        f"of {scope} {name}, {words}",
        code="pending-limit",
        hint="wait until some have started, or stop them",
        data={"scope": str(scope), "name": name, **data},
    )


async def _notify_all(connection: AsyncConnection) -> None:
    await connection.execute(
        text("SELECT pg_notify(:channel, name) FROM resource_groups WHERE removed_at IS NULL"),
        {"channel": SCHEDULER_CHANNEL},
    )
