"""Log-ins that failed in a row, and how long nobody may try again.

An attempt counts before it is checked and is taken back when it was right: of many guesses that come at once, no more
are checked than the threshold allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LONGEST_LOCK_S = 900


@dataclass(frozen=True, slots=True)
class Attempt:
    """The `number`th in a row that was not right yet. Nobody's has no user."""

    user_id: str
    number: int


@dataclass(frozen=True, slots=True)
class Locked:
    until: float


def lock_s(number: int, threshold: int) -> float:
    """How long the `number`th failure in a row locks; 0 below the threshold."""
    return float(min(LONGEST_LOCK_S, 2 ** min(number - threshold, 16))) if number >= threshold else 0.0


async def begin(engine: AsyncEngine, email: str, *, now: float, threshold: int) -> Attempt | Locked | None:
    """Counts an attempt, unless the user is locked; None when there is no such user."""
    async with engine.begin() as connection:
        # Not waiting for the disk: how long the answer takes must not tell that there was something to write.
        await connection.execute(text("SET LOCAL synchronous_commit = off"))
        rows = await connection.execute(
            text(
                "UPDATE users SET failed_logins = failed_logins + 1, locked_until = CASE"
                " WHEN failed_logins + 1 >= :threshold THEN CAST(:now AS timestamptz) + make_interval(secs =>"
                "  LEAST(:longest, 2 ^ LEAST(failed_logins + 1 - :threshold, 16))) END"
                " WHERE email = :email AND (locked_until IS NULL OR locked_until <= :now)"
                " RETURNING id::text, failed_logins"
            ),
            {"email": email, "now": _moment(now), "threshold": threshold, "longest": LONGEST_LOCK_S},
        )
        if counted := rows.first():
            return Attempt(counted.id, counted.failed_logins)
        found = await connection.execute(text("SELECT locked_until FROM users WHERE email = :email"), {"email": email})
        row = found.first()
        if row is None:
            return None
        return Locked(row.locked_until.timestamp() if row.locked_until else now + 1)


async def undo(engine: AsyncEngine, attempt: Attempt, *, threshold: int) -> None:
    """As if it had not been: it was neither a failure nor a log-in."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE users SET failed_logins = GREATEST(failed_logins - 1, 0),"
                " locked_until = CASE WHEN CAST(:it_locked AS boolean) THEN NULL ELSE locked_until END WHERE id = :user"
            ),
            {"user": attempt.user_id, "it_locked": attempt.number >= threshold},
        )


async def clear(connection: AsyncConnection, user_id: str) -> None:
    """It was right: the row of failures ends."""
    await connection.execute(
        text("UPDATE users SET failed_logins = 0, locked_until = NULL WHERE id = :user"), {"user": user_id}
    )


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)
