"""What is given on top of a limit for a time. It begins and ends by itself: the views look at the clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import owners
from moorage.db.engine import reading
from moorage.db.wake import wake_schedulers
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.ids import new_id
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Scope

LONGEST = timedelta(days=366)
SESSIONS = "sessions"
"""In the place of a slot: so many more sessions at once."""
_FURTHEST = timedelta(days=366)


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A checked wish. `amount` in base units; `starts` None: now."""

    scope: Scope
    name: str
    slot: str
    amount: int
    ends: datetime
    starts: datetime | None = None
    reason: str = ""


_COLUMNS = (
    "id::text, scope, name, slot, amount, starts_at, ends_at, reason, given_by, given_at, revoked_at, revoked_by,"
    " CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN now() >= ends_at THEN 'over'"
    " WHEN now() < starts_at THEN 'future' ELSE 'in-force' END AS state"
)


async def index(engine: AsyncEngine, who: Principal, limit: int = 1000) -> list[dict[str, Any]]:
    """In force, future and past, the newest first, of owners whose grants `who` may read."""
    values: list[Any] = []
    seen = owners.visible(who, "grant:read", values)
    async with reading(engine) as connection:
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM grants WHERE {seen} ORDER BY given_at DESC, id LIMIT {limit}", *values
        )
    return [_shown(row) for row in rows]


async def give(engine: AsyncEngine, who: Principal, new: NewGrant) -> dict[str, Any]:
    """Refused where no limit is in force: it would change nothing."""
    starts, ends = _checked_times(new, datetime.now(UTC))
    async with engine.begin() as connection:
        owner = await owners.find(connection, who, new.scope, new.name)
        owners.demand(who, "grant:create", owner)
        await _check_limit(connection, new)
        rows = await connection.execute(
            text(
                "INSERT INTO grants (id, scope, name, slot, amount, starts_at, ends_at, reason, given_by) VALUES"
                " (:id, :scope, :name, :slot, :amount, :starts, :ends, :reason, :by)"
                f" RETURNING {_COLUMNS}"
            ),
            {
                "id": new_id(),
                "scope": str(new.scope),
                "name": new.name,
                "slot": new.slot,
                "amount": new.amount,
                "starts": starts,
                "ends": ends,
                "reason": new.reason,
                "by": who.actor or who.email,
            },
        )
        made = _shown(rows.mappings().one())
        await wake_schedulers(connection)
        await owners.write_audit(connection, who, "grant:create", owner, entity_id=made["id"], after=made)
        return made


async def revoke(engine: AsyncEngine, who: Principal, grant_id: str) -> None:
    """What runs already goes on. Again is no error; one that is over can't be taken back."""
    async with engine.begin() as connection:
        rows = await connection.execute(
            text(f"SELECT {_COLUMNS} FROM grants WHERE id = CAST(:id AS uuid) FOR UPDATE"), {"id": grant_id}
        )
        row = rows.mappings().one_or_none()
        if row is None:
            raise _unknown(grant_id)
        before = _shown(row)
        owner = await _owner(connection, who, before)
        owners.demand(who, "grant:delete", owner)
        if before["state"] == "revoked":
            return
        if before["state"] == "over":
            raise Conflict(f"the grant ended at {before['ends_at']}", code="grant-over", data={"id": grant_id})
        await connection.execute(
            text("UPDATE grants SET revoked_at = now(), revoked_by = :by WHERE id = CAST(:id AS uuid)"),
            {"id": grant_id, "by": who.actor or who.email},
        )
        await wake_schedulers(connection)
        after = {**before, "state": "revoked", "revoked_by": who.actor or who.email}
        await owners.write_audit(connection, who, "grant:delete", owner, entity_id=grant_id, before=before, after=after)


async def _owner(connection: AsyncConnection, who: Principal, grant: dict[str, Any]) -> owners.Owner:
    try:
        return await owners.find(connection, who, Scope(grant["scope"]), grant["name"], seen_by="grant:read")
    except NotFound:
        raise _unknown(grant["id"]) from None


def _checked_times(new: NewGrant, now: datetime) -> tuple[datetime, datetime]:
    starts = new.starts or now
    for wrong, words in (
        (new.ends <= now, f"ends {new.ends.isoformat()} is in the past"),
        (new.ends <= starts, f"ends {new.ends.isoformat()} is not after starts {starts.isoformat()}"),
        (new.ends - starts > LONGEST, f"it would last {(new.ends - starts).days} days; at most a year is allowed"),
        (starts - now > _FURTHEST, f"starts {starts.isoformat()} is more than a year away"),
    ):
        if wrong:
            raise InvalidRequest(words, code="contradicting-times", hint="what is to last is a limit: moor limits set")
    return starts, new.ends


async def _check_limit(connection: AsyncConnection, new: NewGrant) -> None:
    rows = await connection.execute(
        text("SELECT max_sessions, max_slots FROM quotas WHERE scope = :scope AND name = :name"),
        {"scope": str(new.scope), "name": new.name},
    )
    row = rows.one()
    limited = row.max_sessions is not None if new.slot == SESSIONS else new.slot in row.max_slots
    if not limited:
        raise Conflict(
            f"nothing limits {new.slot} of {new.scope} {new.name}: the grant would change nothing",
            code="no-limit",
            hint="moor quota shows the limits in force",
            data={"scope": str(new.scope), "name": new.name, "slot": new.slot},
        )


def _shown(row: Any) -> dict[str, Any]:
    moments = {name: row[name] and row[name].isoformat() for name in ("starts_at", "ends_at", "given_at", "revoked_at")}
    return {**row, **moments}


def _unknown(grant_id: str) -> NotFound:
    return NotFound(f"there is no grant {grant_id[:80]!r}", code="unknown-grant", hint="moor quota grants lists them")
