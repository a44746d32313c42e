"""Roles: built-in and custom ones, and what nobody may do: give more than he holds, act on whoever holds more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.db.principals import held_of
from moorage.db.tree import Row, differences, one, plain, settings_of
from moorage.domain.errors import Conflict, Forbidden, InvalidRequest, NotFound
from moorage.domain.ids import checked_tenant_name
from moorage.domain.permissions import (
    BUILT_IN,
    HELD_IN,
    PERMISSIONS,
    Held,
    Reach,
    ScopeKind,
    checked_permissions,
    reach,
)
from moorage.domain.tenancy import Principal, Rank, forbidden

_FIRST = 10


@dataclass(frozen=True, slots=True)
class Place:
    """Where a role is held, with the domain that it lies in.

    What a user has lies in no project: it may belong to several, and whoever rules one of them doesn't rule the rest.
    """

    kind: ScopeKind
    id: str = ""
    domain: str = ""

    def lies_in(self, far: Reach) -> bool:
        if self.kind is ScopeKind.GLOBAL:
            return far.everywhere
        projects = (self.id,) if self.kind is ScopeKind.PROJECT else ()
        user = self.id if self.kind is ScopeKind.USER else ""
        return far.covers(domain=self.domain, projects=projects, user=user)


EVERYTHING = Place(ScopeKind.GLOBAL)


async def place(connection: AsyncConnection, kind: ScopeKind, scope_id: str) -> Place:
    """With the domain as it is now."""
    if kind is ScopeKind.GLOBAL:
        return EVERYTHING
    if kind is ScopeKind.DOMAIN:
        return Place(kind, scope_id, scope_id)
    table = "projects" if kind is ScopeKind.PROJECT else "users"
    row = await one(connection, f"SELECT domain FROM {table} WHERE id = CAST(:id AS uuid)", {"id": scope_id})
    return Place(kind, scope_id, row["domain"] if row else "")


def lacking(mine: Iterable[Held], permissions: Iterable[str], where: Place) -> list[str]:
    """The permissions that these roles don't cover there. What has no effect there is nothing to give."""
    held = tuple(mine)
    there = Held(where.kind, where.id, frozenset(permissions))
    return sorted(
        name for name in there.permissions if reach((there,), name) and not _covers(reach(held, name), name, where)
    )


def _covers(far: Reach, permission: str, where: Place) -> bool:
    return far.everywhere or where.lies_in(far)


async def demand_may_give(
    connection: AsyncConnection,
    who: Principal,
    permissions: Iterable[str],
    where: Place,
    *,
    until: datetime | None = None,
) -> None:
    """Forbidden, unless `who` holds all of it there, and for as long as it is given. None is for ever."""
    wanted = frozenset(permissions)
    missing = lacking(who.held, wanted, where) or lacking(
        await held_by(connection, who.user_id, until=until, forever=until is None), wanted, where
    )
    if missing:
        raise exceeds(who, missing)


async def demand_rank(connection: AsyncConnection, who: Principal, rank: str, domain: str) -> None:
    """Forbidden, unless `who` may make somebody of this domain that. Superadmins and monitors come from superadmins."""
    if rank in (Rank.SUPERADMIN, Rank.MONITOR):
        await demand_may_give(connection, who, PERMISSIONS, EVERYTHING)
    elif rank == Rank.ADMIN:
        await demand_may_give(connection, who, BUILT_IN["domain-admin"], Place(ScopeKind.DOMAIN, domain, domain))


async def demand_not_above(connection: AsyncConnection, who: Principal, user_id: str) -> None:
    """Forbidden on somebody whose rank or assigned roles hold what `who` doesn't.

    What everybody holds for himself and as a member counts for oneself alone: a narrow token makes no full key.
    """
    theirs = await held_by(connection, user_id, base=user_id == who.user_id)
    for held in theirs:
        missing = lacking(who.held, held.permissions, await place(connection, held.scope, held.scope_id))
        if missing:
            raise exceeds(who, missing)


def exceeds(who: Principal, missing: list[str]) -> Forbidden:
    return Forbidden(
        f"{who.email} may neither give nor act on what it doesn't hold there itself for as long:"
        f" {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
        code="exceeds-own",
        hint="ask somebody who holds it",
        data={"missing": missing},
    )


async def held_by(
    connection: AsyncConnection,
    user_id: str,
    *,
    base: bool = True,
    until: datetime | None = None,
    forever: bool = False,
) -> list[Held]:
    """What a user holds, whatever its status: now, until then, or for ever. Without `base`: rank and assigned ones."""
    row = await one(
        connection,
        "SELECT u.id::text AS user_id, u.role, u.domain,"
        " (SELECT jsonb_object_agg(p.name, p.id) FROM memberships m JOIN projects p ON p.id = m.project_id"
        "   WHERE m.user_id = u.id AND p.is_active AND p.domain = u.domain) AS projects,"
        " (SELECT jsonb_agg(jsonb_build_object('role', a.role, 'scope', a.scope_kind, 'id', a.scope_id,"
        "   'permissions', r.permissions)) FROM role_assignments a LEFT JOIN roles r ON r.name = a.role"
        "   WHERE a.user_id = u.id AND (a.expires_at IS NULL OR (NOT :forever AND a.expires_at > :until))) AS assigned"
        " FROM users u WHERE u.id = CAST(:id AS uuid)",
        {"id": user_id, "until": until or datetime.now(UTC), "forever": forever},
    )
    if row is None:
        return []
    held = held_of(row, row["projects"] or {})
    return held if base else held[1 + len(row["projects"] or {}) :]


async def index(engine: AsyncEngine) -> list[Row]:
    """All of them with their permissions: whoever is signed in may know what a role is."""
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT {_COLUMNS} FROM roles ORDER BY name"))
        custom = [_shown(dict(row)) for row in rows.mappings()]
    return [*(_built_in(name) for name in BUILT_IN), *custom]


async def get(engine: AsyncEngine, name: str) -> Row:
    if name in BUILT_IN:
        return _built_in(name)
    async with engine.connect() as connection:
        row = await one(connection, f"SELECT {_COLUMNS} FROM roles WHERE name = :name", {"name": name})
    if row is None:
        raise unknown(name)
    return _shown(row)


async def create(
    engine: AsyncEngine, who: Principal, name: str, *, permissions: Iterable[str], description: str = ""
) -> Row:
    """`permissions` may hold patterns such as `session:*`; they are kept as what they mean now."""
    meant = sorted(checked_permissions(permissions))
    if checked_tenant_name(name, "role") in BUILT_IN:
        raise _exists(name)
    who.demand("role:create")
    async with engine.begin() as connection:
        await demand_may_give(connection, who, meant, EVERYTHING)
        row = await one(
            connection,
            "INSERT INTO roles (name, description, permissions) VALUES (:name, :description, :permissions)"
            f" ON CONFLICT (name) DO NOTHING RETURNING {_COLUMNS}",
            {"name": name, "description": description, "permissions": meant},
        )
        if row is None:
            raise _exists(name)
        await audit.write(connection, who, "role:create", name, after=_shown(row))
    return _shown(row)


async def change(engine: AsyncEngine, who: Principal, name: str, changes: dict[str, Any]) -> Row:
    """`description`, `permissions`. Whoever holds the role holds the new permissions at once."""
    if "permissions" in changes:
        changes = {**changes, "permissions": sorted(checked_permissions(changes["permissions"]))}
    async with engine.begin() as connection:
        before = await _locked(connection, who, name, "role:update")
        await demand_may_give(connection, who, changes.get("permissions", ()), EVERYTHING)
        if not changes:
            return _shown(before)
        row = await one(
            connection,
            f"UPDATE roles SET {settings_of(changes, ('description', 'permissions'))} WHERE name = :role"
            f" RETURNING {_COLUMNS}",
            {**changes, "role": name},
        )
        assert row is not None
        was, now = differences(before, changes)
        await audit.write(connection, who, "role:update", name, before=was, after=now)
    return _shown(row)


async def remove(engine: AsyncEngine, who: Principal, name: str) -> None:
    """Refused while somebody holds it, with who."""
    async with engine.begin() as connection:
        before = await _locked(connection, who, name, "role:delete")
        rows = await connection.execute(
            text(
                "SELECT u.email, a.scope_kind, a.scope_id FROM role_assignments a JOIN users u ON u.id = a.user_id"
                " WHERE a.role = :name ORDER BY u.email, a.scope_kind, a.scope_id"
            ),
            {"name": name},
        )
        holders = [dict(row) for row in rows.mappings()]
        if holders:
            raise Conflict(
                f"role {name!r} is held by {', '.join(one['email'] for one in holders[:3])}"
                + (f" and {len(holders) - 3} more" if len(holders) > 3 else ""),
                code="role-in-use",
                hint="revoke it first",
                data={"count": len(holders), "holders": holders[:_FIRST]},
            )
        await connection.execute(text("DELETE FROM roles WHERE name = :name"), {"name": name})
        await audit.write(connection, who, "role:delete", name, before=_shown(before))


def unknown(name: str) -> NotFound:
    return NotFound(f"there is no role {name[:64]!r}", code="unknown-role", hint="moor admin role ls")


_COLUMNS = "name, description, permissions, created_at"


def _built_in(name: str) -> Row:
    return {
        "name": name,
        "description": "",
        "built_in": True,
        "permissions": sorted(BUILT_IN[name]),
        "held_in": [str(kind) for kind in HELD_IN[name]],
        "created_at": None,
    }


def _shown(row: Row) -> Row:
    return plain({**row, "built_in": False, "held_in": [str(kind) for kind in ScopeKind]})


def _exists(name: str) -> Conflict:
    return Conflict(f"there is a role {name!r} already", code="role-exists", hint="take another name, or change it")


async def _locked(connection: AsyncConnection, who: Principal, name: str, permission: str) -> Row:
    if not who.reach(permission).everywhere:
        raise forbidden(who, permission)
    if name in BUILT_IN:
        raise InvalidRequest(
            f"role {name!r} is built in and stays as it is", code="role-built-in", hint="make a role of your own"
        )
    row = await one(connection, f"SELECT {_COLUMNS} FROM roles WHERE name = :name FOR UPDATE", {"name": name})
    if row is None:
        raise unknown(name)
    return row
