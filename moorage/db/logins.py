"""Log-ins: one row each, with hashes of its refresh token and of the one before. Times are seconds since 1970."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db.engine import reading

_SHOWN_AT_MOST = 200


async def begin(
    connection: AsyncConnection,
    login_id: str,
    *,
    user_id: str,
    refresh_hash: bytes,
    now: float,
    ends_at: float,
    address: str,
    client: str,
    method: str,
) -> bool:
    """False if that id was used before."""
    rows = await connection.execute(
        text(
            "INSERT INTO logins (id, user_id, refresh_hash, created_at, expires_at, address, client, method) VALUES"
            " (:id, :user, :hash, :now, :ends, :address, :client, :method) ON CONFLICT (id) DO NOTHING RETURNING 1"
        ),
        {
            "id": login_id,
            "user": user_id,
            "hash": refresh_hash,
            "now": _moment(now),
            "ends": _moment(ends_at),
            "address": address,
            "client": client,
            "method": method,
        },
    )
    return rows.first() is not None


async def lock(connection: AsyncConnection, login_id: str, *, now: float) -> Mapping[str, Any] | None:
    """The row of a log-in that goes on, for whoever changes it; only of an active user."""
    rows = await connection.execute(
        text(
            "SELECT l.*, u.email, u.domain FROM logins l JOIN users u ON u.id = l.user_id"
            " JOIN domains d ON d.name = u.domain WHERE l.id = :id AND l.revoked_at IS NULL AND l.expires_at > :now"
            " AND u.status = 'active' AND (u.role = 'superadmin' OR d.is_active) FOR UPDATE OF l"
        ),
        {"id": _checked(login_id), "now": _moment(now)},
    )
    row = rows.mappings().first()
    return dict(row) if row else None


async def rotate(connection: AsyncConnection, login_id: str, *, refresh_hash: bytes, now: float) -> None:
    """The refresh token is another one; the one until now is the previous."""
    await connection.execute(
        text("UPDATE logins SET previous_hash = refresh_hash, refresh_hash = :hash, rotated_at = :now WHERE id = :id"),
        {"id": login_id, "hash": refresh_hash, "now": _moment(now)},
    )


async def revoke(connection: AsyncConnection, user_id: str, login_id: str, *, now: float) -> bool:
    """Ends a log-in of that user; False if it has none such that goes on."""
    rows = await connection.execute(
        text(
            "UPDATE logins SET revoked_at = :now WHERE id = :id AND user_id = :user AND revoked_at IS NULL"
            " AND expires_at > :now RETURNING 1"
        ),
        {"id": _checked(login_id), "user": user_id, "now": _moment(now)},
    )
    return rows.first() is not None


async def revoke_all(connection: AsyncConnection, user_id: str, *, now: float, but: str = "") -> int:
    """Ends every log-in of that user but one; how many that were."""
    rows = await connection.execute(
        text(
            "UPDATE logins SET revoked_at = :now WHERE user_id = :user AND revoked_at IS NULL AND id <> :but"
            " RETURNING 1"
        ),
        {"user": user_id, "now": _moment(now), "but": _checked(but)},
    )
    return len(rows.all())


async def index(engine: AsyncEngine, user_id: str, *, now: float) -> list[dict[str, Any]]:
    """The user's log-ins that go on, the newest first."""
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT id::text, method, address, client, created_at, rotated_at AS refreshed_at, expires_at FROM logins"
            " WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2 ORDER BY created_at DESC LIMIT $3",
            user_id,
            _moment(now),
            _SHOWN_AT_MOST,
        )
    return [{name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
            for row in rows]  # fmt: skip


def _checked(login_id: str) -> str:
    """An id that no log-in has, for what is none."""
    try:
        return str(uuid.UUID(login_id))
    except ValueError:
        return str(uuid.UUID(int=0))


def _moment(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)


async def forget_old(engine: AsyncEngine) -> int:
    """Removes log-ins that ended a month ago. Looks first: a removal makes every API forget whom it knows."""
    old = "(expires_at < now() - interval '30 days' OR revoked_at < now() - interval '30 days')"
    async with engine.begin() as connection:
        found = await connection.execute(text(f"SELECT EXISTS (SELECT 1 FROM logins WHERE {old})"))
        if not found.scalar_one():
            return 0
        gone = await connection.execute(text(f"DELETE FROM logins WHERE {old}"))
        return gone.rowcount
