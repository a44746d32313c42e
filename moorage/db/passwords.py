"""Changing what a user proves itself with."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


async def change(connection: AsyncConnection, user_id: str, *, old_hash: str, new_hash: str, now: float) -> bool:
    """The user's own change; False if somebody changed it in between."""
    rows = await connection.execute(
        text(
            "UPDATE users SET password_hash = :new, password_changed_at = :now, need_password_change = false,"
            " failed_logins = 0, locked_until = NULL WHERE id = :user AND password_hash = :old RETURNING 1"
        ),
        {"user": user_id, "old": old_hash, "new": new_hash, "now": datetime.fromtimestamp(now, UTC)},
    )
    return rows.first() is not None


async def rehash(connection: AsyncConnection, user_id: str, *, old_hash: str, new_hash: str) -> None:
    """The same password, hashed with today's parameters."""
    await connection.execute(
        text("UPDATE users SET password_hash = :new WHERE id = :user AND password_hash = :old"),
        {"user": user_id, "old": old_hash, "new": new_hash},
    )


async def start_totp(connection: AsyncConnection, user_id: str, sealed: bytes) -> bool:
    """A secret that is not in force yet; False if one is in force already."""
    rows = await connection.execute(
        text("UPDATE users SET totp_secret = :secret WHERE id = :user AND totp_enabled_at IS NULL RETURNING 1"),
        {"user": user_id, "secret": sealed},
    )
    return rows.first() is not None


async def confirm_totp(connection: AsyncConnection, user_id: str, *, sealed: bytes, step: int, now: float) -> bool:
    """That secret is in force from now on; False if it is not the one that waits for it."""
    rows = await connection.execute(
        text(
            "UPDATE users SET totp_enabled_at = :now, totp_last_step = :step"
            " WHERE id = :user AND totp_secret = :secret AND totp_enabled_at IS NULL RETURNING 1"
        ),
        {"user": user_id, "secret": sealed, "step": step, "now": datetime.fromtimestamp(now, UTC)},
    )
    return rows.first() is not None


async def use_step(connection: AsyncConnection, user_id: str, step: int) -> bool:
    """Each code counts once: False if this one, or a later one, was used."""
    rows = await connection.execute(
        text("UPDATE users SET totp_last_step = :step WHERE id = :user AND totp_last_step < :step RETURNING 1"),
        {"user": user_id, "step": step},
    )
    return rows.first() is not None


async def remove_totp(connection: AsyncConnection, user_id: str) -> bool:
    """The user logs in without codes; False if it did already."""
    rows = await connection.execute(
        text(
            "UPDATE users SET totp_secret = NULL, totp_enabled_at = NULL"
            " WHERE id = :user AND totp_secret IS NOT NULL RETURNING 1"
        ),
        {"user": user_id},
    )
    return rows.first() is not None
