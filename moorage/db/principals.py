"""Whoever asks, as the database knows them: one query for each way of saying who one is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import reading
from moorage.domain.permissions import BUILT_IN, PERMISSIONS, Held, ScopeKind, exceeds
from moorage.domain.tenancy import Principal, Rank

# Told whenever what stands here may have changed, so that nobody remembers it longer than that.
IDENTITY_CHANNEL = "moorage_identity"

_ACTIVE = "u.status = 'active' AND (u.role = 'superadmin' OR d.is_active)"
_COLUMNS = (
    f"({_ACTIVE}) AS may_enter,"
    " u.id::text AS user_id, u.email, u.role, u.domain, u.project_id::text AS project_id, u.allowed_client_ip,"
    " u.password_hash, u.need_password_change, u.password_changed_at, u.failed_logins, u.locked_until,"
    " u.totp_secret, u.totp_enabled_at, u.totp_last_step, u.status,"
    " (SELECT p.name FROM projects p WHERE p.id = u.project_id) AS project,"
    " (SELECT jsonb_object_agg(p.name, p.id) FROM memberships m JOIN projects p ON p.id = m.project_id"
    "   WHERE m.user_id = u.id AND p.is_active AND p.domain = u.domain) AS projects,"
    " (SELECT jsonb_agg(jsonb_build_object('role', a.role, 'scope', a.scope_kind, 'id', a.scope_id,"
    "   'permissions', r.permissions)) FROM role_assignments a LEFT JOIN roles r ON r.name = a.role"
    "   WHERE a.user_id = u.id AND (a.expires_at IS NULL OR a.expires_at > now())) AS assigned"
)
_MAIN_KEY = (
    "COALESCE((SELECT k.access_key FROM keypairs k WHERE k.access_key = u.main_access_key AND k.is_active),"
    " (SELECT o.access_key FROM keypairs o WHERE o.user_id = u.id AND o.is_active"
    "   ORDER BY o.created_at, o.access_key LIMIT 1))"
)
# That a key was used is written once a minute.
_UNNOTED = "k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute'"
_FROM = "FROM users u JOIN domains d ON d.name = u.domain"


async def by_access_key(engine: AsyncEngine, access_key: str) -> tuple[Principal, Mapping[str, Any]] | None:
    """The active owner of an active key pair, and the row (`secret` is sealed)."""
    return await _one(
        engine,
        f"SELECT {_COLUMNS}, k.access_key, k.secret, k.rate_limit, ({_UNNOTED}) AS unnoted"
        f" {_FROM} JOIN keypairs k ON k.user_id = u.id WHERE k.access_key = $1 AND k.is_active AND {_ACTIVE}",
        access_key,
    )


async def note_use(engine: AsyncEngine, access_key: str) -> None:
    """The key pair was used just now. Waits for nobody who is changing it."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE keypairs SET last_used_at = now() WHERE access_key = (SELECT k.access_key FROM keypairs k"
                f" WHERE k.access_key = :key AND ({_UNNOTED}) FOR NO KEY UPDATE SKIP LOCKED)"
            ),
            {"key": access_key},
        )


async def by_id(engine: AsyncEngine, user_id: str) -> tuple[Principal, Mapping[str, Any]] | None:
    """The active user of that id, with its main key."""
    return await _one(engine, f"{_OF_A_USER} WHERE u.id = $1 AND {_ACTIVE}", user_id)


async def by_email(engine: AsyncEngine, email: str) -> tuple[Principal, Mapping[str, Any]] | None:
    """The active user of that e-mail address, with its main key."""
    return await _one(engine, f"{_OF_A_USER} WHERE u.email = $1 AND {_ACTIVE}", email)


async def named(engine: AsyncEngine, email: str) -> tuple[Principal, bool] | None:
    """The user of that e-mail address, and whether it is active."""
    found = await _one(engine, f"{_OF_A_USER} WHERE u.email = $1", email)
    return (found[0], found[1]["may_enter"]) if found is not None else None


async def holds_more(engine: AsyncEngine, theirs: Principal, *, than: Principal) -> bool:
    """Whether somebody holds anything that the other doesn't: nobody acts on whoever is above him."""
    ids = [one.scope_id for one in theirs.held if one.scope in (ScopeKind.PROJECT, ScopeKind.USER)]
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT id::text, domain FROM projects WHERE id = ANY($1::uuid[])"
            " UNION ALL SELECT id::text, domain FROM users WHERE id = ANY($1::uuid[])",
            ids,
        )
    return exceeds(than.held, theirs.held, them=theirs.user_id, domains={row["id"]: row["domain"] for row in rows})


async def by_login(engine: AsyncEngine, login_id: str) -> tuple[Principal, Mapping[str, Any]] | None:
    """The active user of a log-in that nobody ended, with its main key. When it expires, its tokens say."""
    query = f"{_OF_A_USER} JOIN logins l ON l.user_id = u.id WHERE l.id = $1 AND l.revoked_at IS NULL"
    return await _one(engine, f"{query} AND {_ACTIVE}", login_id)


_OF_A_USER = (
    f"SELECT {_COLUMNS}, m.access_key, m.rate_limit {_FROM}"
    f" LEFT JOIN keypairs m ON m.user_id = u.id AND m.access_key = {_MAIN_KEY}"
)


async def _one(engine: AsyncEngine, query: str, value: str) -> tuple[Principal, Mapping[str, Any]] | None:
    async with reading(engine) as connection:
        found = await connection.fetchrow(query, value)
    if found is None:
        return None
    row = dict(found)
    return principal_of(row), row


def principal_of(row: Mapping[str, Any]) -> Principal:
    projects: dict[str, str] = row["projects"] or {}
    return Principal(
        user_id=row["user_id"],
        email=row["email"],
        role=row["role"],
        domain=row["domain"],
        project_id=row["project_id"],
        project=row["project"],
        access_key=row["access_key"] or "",
        projects=projects,
        held=tuple(held_of(row, projects)),
        rate_limit=row["rate_limit"],
        addresses=tuple(row["allowed_client_ip"]),
    )


def held_of(row: Mapping[str, Any], projects: Mapping[str, str]) -> list[Held]:
    """Rank and memberships hold built-in roles; assignments any."""
    found = [Held(ScopeKind.USER, row["user_id"], BUILT_IN["user"])]
    found += [Held(ScopeKind.PROJECT, project, BUILT_IN["member"]) for project in projects.values()]
    if row["role"] in (Rank.SUPERADMIN, Rank.MONITOR):
        found.append(Held(ScopeKind.GLOBAL, "", BUILT_IN[row["role"]]))
    elif row["role"] == Rank.ADMIN:
        found.append(Held(ScopeKind.DOMAIN, row["domain"], BUILT_IN["domain-admin"]))
    for one in row["assigned"] or ():
        permissions = BUILT_IN.get(one["role"], frozenset(one["permissions"] or ()) & PERMISSIONS)
        found.append(Held(ScopeKind(one["scope"]), one["id"], permissions))
    return found
