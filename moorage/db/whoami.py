"""Oneself: who one is, what one holds, and what one may change about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import users
from moorage.db.tree import Row, one, plain
from moorage.db.user_reach import COLUMNS, locked_self
from moorage.domain.errors import NotFound
from moorage.domain.tenancy import Principal

OWN = ("name", "full_name", "description", "project", "allowed_client_ip")


async def get(engine: AsyncEngine, who: Principal) -> Row:
    """The user, `roles` with their scopes, and the `permissions` that are held anywhere with what was shown now."""
    async with engine.connect() as connection:
        user = await one(
            connection, f"SELECT {COLUMNS} FROM users u WHERE u.id = CAST(:id AS uuid)", {"id": who.user_id}
        )
        rows = await connection.execute(text(_HELD), {"id": who.user_id})
        held = [plain(dict(row)) for row in rows.mappings()]
    if user is None:
        raise NotFound("you are no user any more", code="unknown-user")
    return {
        **plain(user),
        "active_projects": sorted(who.projects),
        "roles": held,
        "permissions": sorted(frozenset().union(*(one.permissions for one in who.held))),
        "access_key": who.access_key,
        "credential": who.credential,
        "actor": who.actor,
    }


async def change(engine: AsyncEngine, who: Principal, changes: Mapping[str, Any]) -> Row:
    """One's own name, full name, description, main project, and where one may come from."""
    changes = users.checked_changes({name: value for name, value in changes.items() if name in OWN})
    async with engine.begin() as connection:
        before = await locked_self(connection, who, main=changes.get("project"))
        await users.set_columns(connection, who, before, changes)
    return await get(engine, who)


# Rank and memberships hold built-in roles; the rest was assigned.
_HELD = (
    "SELECT 'user' AS role, 'user' AS scope_kind, u.email AS scope, NULL::timestamptz AS expires_at FROM users u"
    " WHERE u.id = CAST(:id AS uuid)"
    " UNION ALL SELECT CASE u.role WHEN 'admin' THEN 'domain-admin' ELSE u.role END,"
    "   CASE u.role WHEN 'admin' THEN 'domain' ELSE 'global' END, CASE u.role WHEN 'admin' THEN u.domain ELSE '' END,"
    "   NULL FROM users u WHERE u.id = CAST(:id AS uuid) AND u.role <> 'user'"
    " UNION ALL SELECT 'member', 'project', p.domain || '/' || p.name, NULL FROM memberships m"
    "   JOIN projects p ON p.id = m.project_id WHERE m.user_id = CAST(:id AS uuid) AND p.is_active"
    " UNION ALL SELECT a.role, a.scope_kind, CASE a.scope_kind WHEN 'project' THEN (SELECT p.domain || '/' || p.name"
    "   FROM projects p WHERE p.id::text = a.scope_id) WHEN 'user' THEN (SELECT s.email FROM users s"
    "   WHERE s.id::text = a.scope_id) ELSE a.scope_id END, a.expires_at FROM role_assignments a"
    "   WHERE a.user_id = CAST(:id AS uuid) AND (a.expires_at IS NULL OR a.expires_at > now())"
    " ORDER BY 2, 3, 1"
)
