"""What lets a user in, as administrators change it: password, lock-out, second factor."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage import passwords
from moorage.db.tree import Row
from moorage.db.user_reach import locked, written
from moorage.domain.errors import Forbidden
from moorage.domain.tenancy import Principal


async def set_password(
    engine: AsyncEngine, who: Principal, ref: str, password: str | None, *, need_change: bool = True
) -> None:
    """The user's password is this one, to be changed at the next log-in; all log-ins end. None: no log-in by one."""
    digest = None if password is None else await passwords.hashed(password)
    async with engine.begin() as connection:
        user = await _another(connection, who, ref)
        if password is not None:
            passwords.check_new(password, email=user["email"])
        await connection.execute(
            text(
                "UPDATE users SET password_hash = :hash, need_password_change = :need, password_changed_at = now(),"
                " failed_logins = 0, locked_until = NULL WHERE id = CAST(:id AS uuid)"
            ),
            {"hash": digest, "need": need_change and digest is not None, "id": user["id"]},
        )
        await _end_logins(connection, user["id"])
        await written(connection, who, "user:update", user, after={"password": "set" if digest else "removed"})


async def unlock(engine: AsyncEngine, who: Principal, ref: str) -> None:
    """Wrong passwords so far don't count any more."""
    async with engine.begin() as connection:
        user = await locked(connection, who, ref, "user:update")
        await connection.execute(
            text("UPDATE users SET failed_logins = 0, locked_until = NULL WHERE id = CAST(:id AS uuid)"),
            {"id": user["id"]},
        )
        was = {"failed_logins": user["failed_logins"]}
        await written(connection, who, "user:update", user, before=was, after={"failed_logins": 0})


async def remove_totp(engine: AsyncEngine, who: Principal, ref: str) -> None:
    """The password alone lets the user in, until it sets a second factor up again; all its log-ins end."""
    async with engine.begin() as connection:
        user = await _another(connection, who, ref)
        await connection.execute(
            text(
                "UPDATE users SET totp_secret = NULL, totp_enabled_at = NULL, totp_last_step = 0"
                " WHERE id = CAST(:id AS uuid)"
            ),
            {"id": user["id"]},
        )
        await _end_logins(connection, user["id"])
        await written(
            connection, who, "user:update", user, before={"has_totp": user["has_totp"]}, after={"has_totp": False}
        )


async def _another(connection: AsyncConnection, who: Principal, ref: str) -> Row:
    """Whoever found somebody's terminal open must not get the account for good."""
    user = await locked(connection, who, ref, "user:update")
    if user["id"] == who.user_id:
        raise Forbidden(
            "one's own password and second factor are changed with the present ones",
            code="not-on-oneself",
            hint="change them as yourself, or ask another administrator",
        )
    return user


async def _end_logins(connection: AsyncConnection, user_id: str) -> None:
    await connection.execute(
        text("UPDATE logins SET revoked_at = now() WHERE user_id = CAST(:id AS uuid) AND revoked_at IS NULL"),
        {"id": user_id},
    )
