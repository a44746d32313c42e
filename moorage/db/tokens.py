"""Personal access tokens: `moor_pat_<id>_<secret>`. Only a hash of the secret is kept; it is random enough for that."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import audit, principals
from moorage.db.engine import reading
from moorage.db.reach import within
from moorage.domain.errors import Conflict, Forbidden, NotFound
from moorage.domain.permissions import Held, checked_permissions
from moorage.domain.tenancy import Principal, forbidden

PREFIX = "moor_pat_"
LONGEST_S = 365 * 86400.0
AT_MOST = 100
_LETTERS = string.ascii_lowercase + string.digits
_COLUMNS = "t.id, t.name, t.permissions, t.created_at, t.expires_at, t.last_used_at, t.revoked_at, u.email AS user"
_NOTHING = bytes(32)
# Not each use is written, only one a minute.
_STALE = "last_used_at IS NULL OR last_used_at < now() - interval '1 minute'"


@dataclass(frozen=True, slots=True)
class Shown:
    """A token that was verified: its user, held to what the token permits."""

    principal: Principal
    permissions: frozenset[str]
    expires_at: datetime


async def create(
    engine: AsyncEngine, who: Principal, *, name: str, permissions: Iterable[str], expires_in_s: float
) -> dict[str, Any]:
    """A new token of one's own with its `token`, which nobody can read again. Never more than the asker holds."""
    if who.actor:
        raise Forbidden(f"{who.actor} acts as {who.email}; only {who.email} makes tokens of {who.email}")
    granted = _granted(who, permissions)
    token_id = "".join(secrets.choice(_LETTERS) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    values = {
        "id": token_id,
        "user": who.user_id,
        "name": name,
        "hash": _hash(secret),
        "permissions": sorted(granted),
        "expires": datetime.now(UTC) + timedelta(seconds=expires_in_s),
    }
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT 1 FROM users WHERE id = :id FOR UPDATE"), {"id": who.user_id})
            owned = (await connection.execute(text(_OWNED), {"user": who.user_id, "name": name})).one()
            if owned.live >= AT_MOST:
                words = f"{who.email} has {owned.live} tokens; at most {AT_MOST} are allowed"
                raise Conflict(words, code="too-many-tokens", hint="revoke some first")
            if owned.has_an_expired_namesake:  # an update of no row would still make everybody forget
                await connection.execute(text(_RELEASE_NAME), {"user": who.user_id, "name": name})
            rows = await connection.execute(text(_INSERT), values)
            made = _plain({**rows.mappings().one(), "user": who.email})
            await audit.write(connection, who, "token:create", token_id, after=made)
    except IntegrityError:
        raise Conflict(f"there is a token {name!r} already", code="token-exists", hint="revoke it first") from None
    return {**made, "token": f"{PREFIX}{token_id}_{secret}"}


_OWNED = (
    "SELECT count(*) FILTER (WHERE expires_at > now()) AS live,"
    " COALESCE(bool_or(name = :name AND expires_at <= now()), false) AS has_an_expired_namesake"
    " FROM tokens WHERE user_id = :user AND revoked_at IS NULL"
)
# One that has expired keeps its name from nobody.
_RELEASE_NAME = (
    "UPDATE tokens SET revoked_at = expires_at"
    " WHERE user_id = :user AND name = :name AND revoked_at IS NULL AND expires_at <= now()"
)
_INSERT = (
    "INSERT INTO tokens (id, user_id, name, hash, permissions, expires_at)"
    " VALUES (:id, :user, :name, :hash, :permissions, :expires)"
    " RETURNING id, name, permissions, created_at, expires_at, last_used_at, revoked_at"
)


async def index(engine: AsyncEngine, who: Principal, *, limit: int, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The tokens that one may read and that still count, the newest first: (a page of them, how many there are)."""
    values: list[Any] = []
    seen = within(who.reach("token:read"), values, user="t.user_id", domain="u.domain")
    matching = (
        f"FROM tokens t JOIN users u ON u.id = t.user_id WHERE {seen} AND t.revoked_at IS NULL AND t.expires_at > now()"
    )
    async with reading(engine) as connection:
        total = await connection.fetchval(f"SELECT count(*) {matching}", *values)
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} {matching} ORDER BY t.created_at DESC, t.id"
            f" LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}",
            *values,
            limit,
            offset,
        )
    return [_plain(row) for row in rows], total


async def revoke(engine: AsyncEngine, who: Principal, token_id: str) -> None:
    """It stops counting at once, everywhere. Once more is no error."""
    row = await _one(engine, token_id)
    whose = {"domain": row["domain"], "user": row["user_id"]} if row is not None else {}
    if row is None or not who.reach("token:read").covers(**whose):
        raise NotFound(f"there is no token {token_id[:80]!r}", code="unknown-token", hint="GET /token lists them")
    if not who.reach("token:delete").covers(**whose) or await _is_above(engine, row["user"], who):
        raise forbidden(who, "token:delete")
    async with engine.begin() as connection:
        gone = await connection.execute(text(_REVOKE), {"id": token_id})
        if gone.first() is not None:
            of = {"domain": row["domain"], "user_id": row["user_id"]}
            await audit.write(connection, who, "token:delete", token_id, before=_plain(row), **of)


_REVOKE = "UPDATE tokens SET revoked_at = now() WHERE id = :id AND revoked_at IS NULL RETURNING 1"


async def _one(engine: AsyncEngine, token_id: str) -> Mapping[str, Any] | None:
    async with reading(engine) as connection:
        found: Mapping[str, Any] | None = await connection.fetchrow(
            f"SELECT {_COLUMNS}, u.id::text AS user_id, u.domain FROM tokens t JOIN users u ON u.id = t.user_id"
            " WHERE t.id = $1",
            token_id,
        )
        return found


async def _is_above(engine: AsyncEngine, email: str, who: Principal) -> bool:
    found = await principals.named(engine, email) if email != who.email else None
    return found is not None and await principals.holds_more(engine, found[0], than=who)


async def by_token(engine: AsyncEngine, shown: str) -> Shown | None:
    """The active user of a token that counts. An unknown one takes the same steps as one with a wrong secret."""
    token_id, _, secret = shown.removeprefix(PREFIX).partition("_")
    async with reading(engine) as connection:
        row = await connection.fetchrow(
            "SELECT id, user_id::text, hash, permissions, expires_at,"
            f" {_STALE} AS is_stale FROM tokens WHERE id = $1 AND revoked_at IS NULL AND expires_at > now()",
            token_id,
        )
    is_right = hmac.compare_digest(row["hash"] if row is not None else _NOTHING, _hash(secret))
    if row is None or not is_right:
        return None
    found = await principals.by_id(engine, row["user_id"])
    if found is None:
        return None
    if row["is_stale"]:
        await _note_use(engine, token_id)
    permissions = frozenset(row["permissions"])
    who = replace(found[0], held=cut(found[0].held, permissions), credential=f"token:{token_id}")
    return Shown(who, permissions, row["expires_at"])


def cut(held: Iterable[Held], permissions: frozenset[str]) -> tuple[Held, ...]:
    """The same roles with nothing but these permissions."""
    return tuple(replace(one, permissions=both) for one in held if (both := one.permissions & permissions))


def _granted(who: Principal, names: Iterable[str]) -> frozenset[str]:
    """What the names mean, of what the asker holds. A permission named outright must be held."""
    wanted = list(names)
    holds = frozenset[str]().union(*(one.permissions for one in who.held))
    missing = sorted(checked_permissions(name for name in wanted if "*" not in name) - holds)
    granted = checked_permissions(wanted) & holds
    if missing or not granted:
        raise Forbidden(
            f"{who.email} holds nothing of {', '.join(missing or wanted)[:200]}; a token permits what its maker may do",
            data={"missing": missing or wanted},
        )
    return granted


async def _note_use(engine: AsyncEngine, token_id: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text(f"UPDATE tokens SET last_used_at = now() WHERE id = :id AND ({_STALE})"), {"id": token_id}
        )


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    times = ("created_at", "expires_at", "last_used_at")
    return {
        **{name: row[name] for name in ("id", "name", "user", "permissions")},
        **{name: row[name].isoformat() if row[name] is not None else None for name in times},
    }
