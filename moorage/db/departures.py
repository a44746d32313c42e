"""Users who leave: deleted with what lets them in, then purged of all that is personal."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import belongings
from moorage.db.tree import Row, not_deleted, one, plain
from moorage.db.user_reach import keep_a_superadmin, locked, written
from moorage.domain.tenancy import Principal


async def owned(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """What a deletion would meet; nothing is changed."""
    async with engine.begin() as connection:
        row = await locked(connection, who, ref, "user:delete")
        return await belongings.owned(connection, "user", id=row["id"], name=row["email"])


async def live_sessions(engine: AsyncEngine, who: Principal, ref: str) -> list[str]:
    """Ids of the sessions that somebody who may delete the user can end."""
    async with engine.begin() as connection:
        row = await locked(connection, who, ref, "user:delete")
        return await belongings.live_session_ids(connection, "user", row["id"])


async def delete(
    engine: AsyncEngine, who: Principal, ref: str, *, forced: bool = False, asked_to_end: Collection[str] = ()
) -> Row:
    """Its keys, tokens, log-ins and roles are gone; its name stays. Refused while sessions live.

    `forced`: those that were asked to end don't count.
    """
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "user:delete")
        await keep_a_superadmin(connection, before["id"])
        owns = await belongings.owned(connection, "user", id=before["id"], name=before["email"])
        live = await belongings.live_session_ids(connection, "user", before["id"])
        kinds = [] if forced and set(live) <= set(asked_to_end) else ["live_sessions"]
        belongings.refuse_if_still_owned(before["email"], owns, kinds, "end them, or force it")
        await _shut_out(connection, before["id"])
        await connection.execute(
            text("UPDATE users SET status = 'deleted', main_access_key = NULL WHERE id = CAST(:id AS uuid)"),
            {"id": before["id"]},
        )
        await written(connection, who, "user:delete", before, before=plain(before))
    return owns


async def purge(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """Of a deleted user: everything personal and every secret is gone for good. Says what."""
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "user:purge", deleted=True)
        if before["status"] != "deleted":
            raise not_deleted("user", before["email"])
        await belongings.refuse_while_live(connection, "user", before["id"], before["email"])
        removed = await wipe(connection, before["id"])
        anonymous = {**before, "email": anonymous_name(before["id"])}
        await written(connection, who, "user:purge", anonymous, after=removed)
    return removed


async def wipe(connection: AsyncConnection, user_id: str) -> Row:
    """The user's row stays, without a name: ended sessions refer to it."""
    values = {"id": user_id, "name": anonymous_name(user_id)}
    row = await one(connection, "SELECT email FROM users WHERE id = CAST(:id AS uuid) FOR UPDATE", values)
    assert row is not None
    await belongings.drop(connection, "user", id=user_id, name=row["email"])
    keys = await _shut_out(connection, user_id)
    removed = {"email": True, "keypairs": len(keys)}
    for table in ("secrets", "tokens", "logins", "memberships"):
        gone = await connection.execute(text(f"DELETE FROM {table} WHERE user_id = CAST(:id AS uuid)"), values)
        removed[table] = gone.rowcount
    for table, column in (("secrets", "created_by"), ("role_assignments", "granted_by"), ("grants", "given_by")):
        await connection.execute(
            text(f"UPDATE {table} SET {column} = :name WHERE {column} = :email"), {**values, "email": row["email"]}
        )
    await connection.execute(
        text(
            "UPDATE users SET email = :name, name = '', full_name = '', description = '', password_hash = NULL,"
            " role = 'user', policy = 'default', allowed_client_ip = '{}', totp_secret = NULL, totp_enabled_at = NULL,"
            " oidc_issuer = NULL, oidc_subject = NULL WHERE id = CAST(:id AS uuid)"
        ),
        values,
    )
    return removed


def anonymous_name(user_id: str) -> str:
    return f"purged-{user_id}"


async def _shut_out(connection: AsyncConnection, user_id: str) -> list[str]:
    values = {"id": user_id}
    for table in ("tokens", "logins"):
        await connection.execute(
            text(f"UPDATE {table} SET revoked_at = now() WHERE user_id = CAST(:id AS uuid) AND revoked_at IS NULL"),
            values,
        )
    await connection.execute(text("DELETE FROM role_assignments WHERE user_id = CAST(:id AS uuid)"), values)
    return await belongings.drop_keys(connection, user_id)
