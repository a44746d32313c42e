"""Key pairs: how programs say who they are. A secret key is shown when it is made, and never again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit, user_reach
from moorage.db.engine import reading
from moorage.db.tree import Row, check_policy, differences, one, page, plain, settings_of
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.ids import is_id, new_access_key, new_secret_key
from moorage.domain.tenancy import Principal, Rank
from moorage.seal import Seal

DEFAULT_RATE_LIMIT = 10_000
# Limits and rates are those of a key: many keys would be many times as much.
MOST_OF_A_USER = 16
_COLUMNS = (
    "k.access_key, u.email AS user, u.domain, k.is_active,"
    " COALESCE(k.access_key = u.main_access_key, false) AS is_main,"
    " k.policy, k.rate_limit, k.created_at, k.last_used_at"
)
_FROM = "keypairs k JOIN users u ON u.id = k.user_id"
# What a key may do is given by those above its owner.
_GIVEN = frozenset({"policy", "rate_limit"})


async def index(
    engine: AsyncEngine, who: Principal, *, user: str | None = None, limit: int = 100, offset: int = 0
) -> tuple[list[Row], int]:
    """By user and age. `user` is an e-mail address or id."""
    values: list[Any] = []
    conditions = [user_reach.readable(who.reach("keypair:read"), values)]
    if user is not None:
        values.append(user_reach.address_of(user))
        conditions.append(f"u.id = ${len(values)}::uuid" if is_id(user) else f"u.email = ${len(values)}")
    order = "u.email, k.created_at, k.access_key"
    return await page(engine, _COLUMNS, _FROM, conditions, values, order=order, limit=limit, offset=offset)


async def get(engine: AsyncEngine, who: Principal, access_key: str) -> Row:
    values: list[Any] = [access_key]
    seen = user_reach.readable(who.reach("keypair:read"), values)
    async with reading(engine) as connection:
        found = await connection.fetchrow(f"SELECT {_COLUMNS} FROM {_FROM} WHERE k.access_key = $1 AND {seen}", *values)
    if found is None:
        raise unknown(access_key)
    return plain(dict(found))


async def create(engine: AsyncEngine, seal: Seal, who: Principal, user: str | None = None) -> Row:
    """A key pair of that user, of oneself if nobody is named; with `secret_key`, this once."""
    async with engine.begin() as connection:
        seen_by = "user:read" if user else "keypair:create"
        owner = await user_reach.locked(
            connection, who, user or who.user_id, "keypair:create", seen_by=seen_by, may_be_own=True
        )
        count = await one(
            connection, "SELECT count(*) AS n FROM keypairs WHERE user_id = CAST(:id AS uuid)", {"id": owner["id"]}
        )
        if count and count["n"] >= MOST_OF_A_USER:
            raise Conflict(
                f"{owner['email']} has {count['n']} key pairs; at most {MOST_OF_A_USER} are allowed",
                code="too-many-keypairs",
                hint="delete one that is not used any more",
                data={"limit": MOST_OF_A_USER, "now": count["n"]},
            )
        made = await insert(connection, seal, owner["id"], owner["role"])
        row = await _row(connection, made["access_key"])
        await _audit(connection, who, "keypair:create", owner, made["access_key"], after=row)
    return {**row, "secret_key": made["secret_key"]}


async def insert(
    connection: AsyncConnection,
    seal: Seal,
    user_id: str,
    role: str,
    pair: tuple[str, str] | None = None,
    *,
    policy: str = "",
) -> dict[str, str]:
    """A new key pair of a user, with what is usual for its rank; its first one is its main one."""
    access_key, secret_key = pair or (new_access_key(), new_secret_key())
    is_superadmin = role == Rank.SUPERADMIN
    await connection.execute(
        text(
            "INSERT INTO keypairs (access_key, user_id, secret, policy, rate_limit)"
            " VALUES (:key, CAST(:user AS uuid), :secret, :policy, :rate_limit)"
        ),
        {
            "key": access_key,
            "user": user_id,
            "secret": seal.seal(secret_key.encode()),
            "policy": policy or ("unlimited" if is_superadmin else "default"),
            "rate_limit": None if is_superadmin else DEFAULT_RATE_LIMIT,
        },
    )
    await connection.execute(
        text("UPDATE users SET main_access_key = :key WHERE id = CAST(:user AS uuid) AND main_access_key IS NULL"),
        {"key": access_key, "user": user_id},
    )
    return {"access_key": access_key, "secret_key": secret_key}


async def make_usual(connection: AsyncConnection, user_id: str) -> None:
    """The keys of whoever is no superadmin any more have no more than others'."""
    await connection.execute(
        text(
            "UPDATE keypairs SET policy = 'default', rate_limit = :limit"
            " WHERE user_id = CAST(:id AS uuid) AND policy = 'unlimited'"
        ),
        {"id": user_id, "limit": DEFAULT_RATE_LIMIT},
    )


async def change(engine: AsyncEngine, who: Principal, access_key: str, changes: Mapping[str, Any]) -> Row:
    """`is_active`, `is_main`; and, by whoever administers its owner, `policy` and `rate_limit` (None is none)."""
    async with engine.begin() as connection:
        owner, before = await _locked(connection, who, access_key, "keypair:update")
        if not _GIVEN.isdisjoint(changes):
            user_reach.demand_on_user(who, "keypair:update", owner)
        if "policy" in changes:
            await check_policy(connection, "keypair", changes["policy"])
        columns = {name: value for name, value in changes.items() if name != "is_main"}
        setting = settings_of(columns, ("is_active", *_GIVEN))
        if setting:
            await connection.execute(
                text(f"UPDATE keypairs SET {setting} WHERE access_key = :key"), {**columns, "key": access_key}
            )
        if "is_main" in changes:
            await _set_main(connection, owner["id"], access_key, is_main=changes["is_main"])
        was, now = differences(before, changes)
        if now:
            await _audit(connection, who, "keypair:update", owner, access_key, before=was, after=now)
        return await _row(connection, access_key)


async def delete(engine: AsyncEngine, who: Principal, access_key: str) -> None:
    """It opens nothing any more; its limits and grants go with it. Running sessions go on."""
    async with engine.begin() as connection:
        owner, before = await _locked(connection, who, access_key, "keypair:delete")
        await _set_main(connection, owner["id"], access_key, is_main=False)
        for table in ("limits", "grants"):
            await connection.execute(
                text(f"DELETE FROM {table} WHERE scope = 'keypair' AND name = :key"), {"key": access_key}
            )
        await connection.execute(text("DELETE FROM keypairs WHERE access_key = :key"), {"key": access_key})
        await _audit(connection, who, "keypair:delete", owner, access_key, before=before)


def unknown(access_key: str) -> NotFound:
    return NotFound(f"there is no key pair {access_key[:80]!r}", code="unknown-keypair", hint="moor admin keypair ls")


async def _locked(connection: AsyncConnection, who: Principal, access_key: str, permission: str) -> tuple[Row, Row]:
    """(owner, key pair), both as they are until the commit."""
    found = await one(
        connection, "SELECT user_id::text AS id FROM keypairs WHERE access_key = :key", {"key": access_key}
    )
    if found is None:
        raise unknown(access_key)
    try:
        owner = await user_reach.locked(
            connection, who, found["id"], permission, seen_by="keypair:read", may_be_own=True, deleted=True
        )
    except NotFound:
        raise unknown(access_key) from None
    return owner, await _row(connection, access_key)


async def _set_main(connection: AsyncConnection, user_id: str, access_key: str, *, is_main: bool) -> None:
    """Without a main key the oldest active one is taken."""
    setting = "main_access_key = :key" if is_main else "main_access_key = NULLIF(main_access_key, :key)"
    await connection.execute(
        text(f"UPDATE users SET {setting} WHERE id = CAST(:id AS uuid)"), {"key": access_key, "id": user_id}
    )


async def _row(connection: AsyncConnection, access_key: str) -> Row:
    row = await one(connection, f"SELECT {_COLUMNS} FROM {_FROM} WHERE k.access_key = :key", {"key": access_key})
    if row is None:
        raise unknown(access_key)
    return plain(row)


async def _audit(
    connection: AsyncConnection,
    who: Principal,
    operation: str,
    owner: Row,
    access_key: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    await audit.write(
        connection,
        who,
        operation,
        access_key,
        before=before,
        after=after,
        domain=owner["domain"],
        user_id=owner["id"],
    )
