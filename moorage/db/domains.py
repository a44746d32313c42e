"""Domains: the outermost tenants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit, belongings, departures, projects
from moorage.db.engine import reading
from moorage.db.reach import within
from moorage.db.tree import (
    Row,
    differences,
    not_deleted,
    one,
    page,
    plain,
    settings_of,
    unknown_domain,
)
from moorage.db.tree import (
    deleted as is_deleted,
)
from moorage.domain.errors import Conflict
from moorage.domain.ids import checked_tenant_name, new_id
from moorage.domain.tenancy import Principal, forbidden

_COLUMNS = (
    "d.name, d.description, d.is_active, d.allowed_registries, d.created_at, d.deleted_at,"
    " (SELECT count(*) FROM projects p WHERE p.domain = d.name AND p.deleted_at IS NULL) AS projects,"
    " (SELECT count(*) FROM users u WHERE u.domain = d.name AND u.status <> 'deleted') AS users"
)
# What the domain was given by those above it.
_GIVEN = frozenset({"is_active", "allowed_registries"})


async def index(
    engine: AsyncEngine, who: Principal, *, deleted: bool = False, limit: int = 100, offset: int = 0
) -> tuple[list[Row], int]:
    values: list[Any] = []
    seen = within(who.reach("domain:read"), values, domain="d.name")
    conditions = [seen, f"d.deleted_at IS {'NOT ' if deleted else ''}NULL"]
    return await page(engine, _COLUMNS, "domains d", conditions, values, order="d.name", limit=limit, offset=offset)


async def get(engine: AsyncEngine, who: Principal, name: str) -> Row:
    values: list[Any] = [name]
    seen = within(who.reach("domain:read"), values, domain="d.name")
    async with reading(engine) as connection:
        found = await connection.fetchrow(f"SELECT {_COLUMNS} FROM domains d WHERE d.name = $1 AND {seen}", *values)
    if found is None:
        raise unknown_domain(name)
    return plain(dict(found))


async def create(
    engine: AsyncEngine, who: Principal, name: str, *, description: str = "", allowed_registries: Sequence[str] = ()
) -> Row:
    """A domain without projects and users."""
    checked_tenant_name(name, "domain")
    who.demand("domain:create")
    async with engine.begin() as connection:
        made = await connection.execute(
            text(
                "INSERT INTO domains (name, description, allowed_registries) VALUES (:name, :description, :registries)"
                " ON CONFLICT (name) DO NOTHING RETURNING name"
            ),
            {"name": name, "description": description, "registries": list(allowed_registries)},
        )
        if made.first() is None:
            raise Conflict(f"there is a domain {name!r} already", code="domain-exists", hint="take another name")
        row = await _row(connection, name)
        await audit.write(connection, who, "domain:create", name, after=row, domain=name)
    return row


async def change(engine: AsyncEngine, who: Principal, name: str, changes: Mapping[str, Any]) -> Row:
    """`description`; and, by whoever administers all domains, `is_active` and `allowed_registries`."""
    async with engine.begin() as connection:
        before = await _locked(connection, who, name, "domain:update")
        if not _GIVEN.isdisjoint(changes) and not who.reach("domain:update").everywhere:
            raise forbidden(who, "domain:update")
        if before["deleted_at"] is not None:
            raise is_deleted("domain", name)
        if not changes:
            return await _row(connection, name)
        setting = settings_of(changes, ("description", *_GIVEN))
        await connection.execute(text(f"UPDATE domains SET {setting} WHERE name = :whose"), {**changes, "whose": name})
        was, now = differences(before, changes)
        await audit.write(connection, who, "domain:update", name, before=was, after=now, domain=name)
        return await _row(connection, name)


async def owned(engine: AsyncEngine, who: Principal, name: str) -> Row:
    """What a deletion would meet; nothing is changed."""
    async with engine.begin() as connection:
        await _locked(connection, who, name, "domain:delete")
        return await belongings.owned(connection, "domain", id=name, name=name)


async def delete(engine: AsyncEngine, who: Principal, name: str) -> Row:
    """Refused while projects or users are left. Its name is free again, even if ended sessions still tell of it."""
    async with engine.begin() as connection:
        before = await _locked(connection, who, name, "domain:delete")
        if before["deleted_at"] is not None:
            raise is_deleted("domain", name)
        owns = await belongings.owned(connection, "domain", id=name, name=name)
        hint = "delete its users and projects first"
        belongings.refuse_if_still_owned(f"domain {name}", owns, ("live_sessions", "projects", "users"), hint)
        await belongings.drop(connection, "domain", id=name, name=name)
        if await _is_referred_to(connection, name):
            after = f"{name}~{new_id()[:8]}"
            await _rename(connection, name, after)
            await connection.execute(
                text("UPDATE domains SET is_active = false, deleted_at = now() WHERE name = :name"), {"name": after}
            )
        else:
            after = ""
            await connection.execute(text("DELETE FROM domains WHERE name = :name"), {"name": name})
        kept = {"kept_as": after} if after else None
        await audit.write(connection, who, "domain:delete", name, before=plain(before), after=kept, domain=name)
    return owns


async def purge(engine: AsyncEngine, who: Principal, name: str) -> Row:
    """Of a deleted domain: its deleted users and projects are purged. Says what is gone."""
    async with engine.begin() as connection:
        before = await _locked(connection, who, name, "domain:purge")
        if before["deleted_at"] is None:
            raise not_deleted("domain", name)
        await belongings.refuse_while_live(connection, "domain", name, name)
        removed = {"users": 0, "projects": 0}
        for user_id in await _ids(connection, "users", name):
            await departures.wipe(connection, user_id)
            removed["users"] += 1
        for project_id in await _ids(connection, "projects", name):
            await projects.wipe(connection, project_id)
            removed["projects"] += 1
        if not await _is_referred_to(connection, name):
            await connection.execute(text("DELETE FROM domains WHERE name = :name"), {"name": name})
        else:
            await connection.execute(
                text("UPDATE domains SET description = '', allowed_registries = '{}' WHERE name = :name"),
                {"name": name},
            )
        await audit.write(connection, who, "domain:purge", name, after=removed, domain=name)
    return removed


async def _locked(connection: AsyncConnection, who: Principal, name: str, permission: str) -> Row:
    row = await one(
        connection,
        "SELECT name, description, is_active, allowed_registries, created_at, deleted_at FROM domains"
        " WHERE name = :name FOR UPDATE",
        {"name": name},
    )
    if row is None or not who.reach("domain:read").covers(domain=name):
        raise unknown_domain(name)
    who.demand(permission, domain=name)
    return row


async def _row(connection: AsyncConnection, name: str) -> Row:
    row = await one(connection, f"SELECT {_COLUMNS} FROM domains d WHERE d.name = :name", {"name": name})
    assert row is not None
    return plain(row)


async def _is_referred_to(connection: AsyncConnection, name: str) -> bool:
    found = await connection.execute(
        text(
            "SELECT EXISTS (SELECT 1 FROM projects WHERE domain = :name)"
            " OR EXISTS (SELECT 1 FROM users WHERE domain = :name)"
            " OR EXISTS (SELECT 1 FROM sessions WHERE domain = :name)"
        ),
        {"name": name},
    )
    return bool(found.scalar_one())


async def _rename(connection: AsyncConnection, old: str, new: str) -> None:
    """Whoever gets the old name must not see what was of the old domain."""
    values = {"old": old, "new": new}
    await connection.execute(text("UPDATE domains SET name = :new WHERE name = :old"), values)
    await connection.execute(text("UPDATE sessions SET domain = :new WHERE domain = :old"), values)


async def _ids(connection: AsyncConnection, table: str, domain: str) -> list[str]:
    rows = await connection.execute(
        text(f"SELECT id::text FROM {table} WHERE domain = :name ORDER BY id"), {"name": domain}
    )
    return list(rows.scalars())
