"""Who holds which role, and where. Nobody hands out more than he holds there himself, nor for longer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit, project_reference, roles, user_reach
from moorage.db.tree import Row, one, page, plain, unknown_domain
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.ids import is_id, new_id
from moorage.domain.permissions import BUILT_IN, HELD_IN, ScopeKind
from moorage.domain.tenancy import Principal, forbidden

# A scope as people write it: a domain's name, domain/project, or an e-mail address.
_SCOPE = (
    "CASE a.scope_kind WHEN 'project' THEN COALESCE((SELECT p.domain || '/' || p.name FROM projects p"
    " WHERE p.id::text = a.scope_id), a.scope_id) WHEN 'user' THEN COALESCE((SELECT s.email FROM users s"
    " WHERE s.id::text = a.scope_id), a.scope_id) ELSE a.scope_id END"
)
_COLUMNS = (
    f"a.id::text AS id, u.email AS user, a.role, a.scope_kind, {_SCOPE} AS scope, a.granted_by, a.created_at,"
    " a.expires_at"
)
_FROM = "role_assignments a JOIN users u ON u.id = a.user_id"


async def index(
    engine: AsyncEngine,
    who: Principal,
    *,
    role: str | None = None,
    user: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Row], int]:
    """Those of users that one may see, by user. Ranks are not among them: the list of users shows those."""
    values: list[Any] = []
    conditions = [user_reach.readable(who.reach("user:read"), values)]
    for expression, value in (("a.role", role), ("u.email", user and user_reach.address_of(user))):
        if value is not None:
            values.append(value)
            conditions.append(f"{expression} = ${len(values)}")
    order = "u.email, a.role, a.scope_kind, a.scope_id"
    return await page(engine, _COLUMNS, _FROM, conditions, values, order=order, limit=limit, offset=offset)


async def assign(
    engine: AsyncEngine,
    who: Principal,
    role: str,
    *,
    user: str,
    scope_kind: ScopeKind,
    scope: str = "",
    expires_at: datetime | None = None,
) -> Row:
    """The user holds the role there. The same once more changes nothing but its end."""
    if expires_at is not None and expires_at <= datetime.now(UTC):
        raise InvalidRequest("expires_at lies in the past", data={"field": "expires_at"})
    async with engine.begin() as connection:
        permissions = await _permissions(connection, role, scope_kind)
        where = await _place(connection, who, scope_kind, scope)
        holder = await _holder(connection, who, user)
        await _demand(connection, who, permissions, where, expires_at)
        row = await one(
            connection,
            "INSERT INTO role_assignments AS a (id, user_id, role, scope_kind, scope_id, granted_by, expires_at)"
            " VALUES (:id, CAST(:user AS uuid), :role, :kind, :scope, :by, :expires) ON CONFLICT"
            " (user_id, role, scope_kind, scope_id) DO UPDATE SET expires_at = excluded.expires_at,"
            " granted_by = excluded.granted_by RETURNING id::text AS id",
            {
                "id": new_id(),
                "user": holder["id"],
                "role": role,
                "kind": str(scope_kind),
                "scope": where.id,
                "by": who.email,
                "expires": expires_at,
            },
        )
        assert row is not None
        made = await _row(connection, row["id"])
        await _audit(connection, who, holder, where, role, after=made)
    return made


async def revoke(engine: AsyncEngine, who: Principal, assignment_id: str) -> None:
    """The role is not held there any more, from now on."""
    async with engine.begin() as connection:
        row = await one(
            connection,
            "SELECT a.id::text AS id, a.role, a.scope_kind, a.scope_id, a.user_id::text AS user_id, r.permissions"
            " FROM role_assignments a LEFT JOIN roles r ON r.name = a.role WHERE a.id = CAST(:id AS uuid)"
            " FOR UPDATE OF a",
            {"id": assignment_id},
        ) if is_id(assignment_id) else None  # fmt: skip
        if row is None:
            raise _unknown(assignment_id)
        holder = await _holder(connection, who, row["user_id"], _unknown(assignment_id))
        where = await roles.place(connection, ScopeKind(row["scope_kind"]), row["scope_id"])
        permissions = BUILT_IN.get(row["role"], frozenset(row["permissions"] or ()))
        await _demand(connection, who, permissions, where, None, gives=False)
        before = await _row(connection, row["id"])
        await connection.execute(text("DELETE FROM role_assignments WHERE id = CAST(:id AS uuid)"), {"id": row["id"]})
        await _audit(connection, who, holder, where, row["role"], before=before)


async def _permissions(connection: AsyncConnection, role: str, kind: ScopeKind) -> frozenset[str]:
    """What the role permits, until the commit at least. Refuses a built-in one where it can't be held."""
    if role in BUILT_IN:
        if kind not in HELD_IN[role]:
            allowed = ", ".join(HELD_IN[role])
            raise InvalidRequest(
                f"role {role} can't be held in scope {kind}; it is held in {allowed}",
                code="wrong-scope",
                data={"allowed": [str(one) for one in HELD_IN[role]]},
            )
        return BUILT_IN[role]
    row = await one(connection, "SELECT permissions FROM roles WHERE name = :name FOR SHARE", {"name": role})
    if row is None:
        raise roles.unknown(role)
    return frozenset(row["permissions"])


async def _place(connection: AsyncConnection, who: Principal, kind: ScopeKind, scope: str) -> roles.Place:
    """What the words mean. What one may neither read nor assign in does not exist."""
    if kind is ScopeKind.GLOBAL:
        if scope:
            raise InvalidRequest("scope global has no name", data={"field": "scope"})
        return roles.EVERYTHING
    if kind is ScopeKind.USER:
        return await roles.place(connection, kind, (await _holder(connection, who, scope))["id"])
    is_domain = kind is ScopeKind.DOMAIN
    condition, values = ("p.name = :name", {"name": scope}) if is_domain else project_reference.named(who, scope)
    column, table = ("p.name", "domains") if is_domain else ("p.id::text", "projects")
    row = await one(
        connection,
        f"SELECT {column} AS id FROM {table} p WHERE {condition} AND p.deleted_at IS NULL FOR KEY SHARE",
        values,
    )
    unknown = unknown_domain if is_domain else project_reference.unknown
    if row is None:
        raise unknown(scope)
    where = await roles.place(connection, kind, row["id"])
    if not (where.lies_in(who.reach("role:assign")) or where.lies_in(who.reach(f"{kind}:read"))):
        raise unknown(scope)
    return where


async def _demand(
    connection: AsyncConnection,
    who: Principal,
    permissions: frozenset[str],
    where: roles.Place,
    until: datetime | None,
    *,
    gives: bool = True,
) -> None:
    if not where.lies_in(who.reach("role:assign")):
        raise forbidden(who, "role:assign")
    if gives:
        await roles.demand_may_give(connection, who, permissions, where, until=until)
    elif missing := roles.lacking(who.held, permissions, where):
        raise roles.exceeds(who, missing)


async def _holder(connection: AsyncConnection, who: Principal, user: str, unknown: NotFound | None = None) -> Row:
    """Whoever gets or loses the role: somebody that one may see."""
    row = await one(
        connection,
        "SELECT id::text AS id, email, domain, status FROM users u"
        f" WHERE {'u.id = CAST(:user AS uuid)' if is_id(user) else 'u.email = :user'} FOR KEY SHARE",
        {"user": user_reach.address_of(user)},
    )
    ids = await user_reach.project_ids(connection, row["id"]) if row else []
    if row is None or not who.reach("user:read").covers(domain=row["domain"], projects=ids, user=row["id"]):
        raise unknown or user_reach.unknown(user)
    if row["status"] == "deleted":
        raise Conflict(f"user {row['email']} is deleted", code="deleted")
    return row


def _unknown(assignment_id: str) -> NotFound:
    return NotFound(
        f"there is no assignment {assignment_id[:80]!r}", code="unknown-assignment", hint="moor admin role who NAME"
    )


async def _row(connection: AsyncConnection, assignment_id: str) -> Row:
    row = await one(connection, f"SELECT {_COLUMNS} FROM {_FROM} WHERE a.id = CAST(:id AS uuid)", {"id": assignment_id})
    assert row is not None
    return plain(row)


async def _audit(
    connection: AsyncConnection,
    who: Principal,
    holder: Row,
    where: roles.Place,
    role: str,
    *,
    before: Row | None = None,
    after: Row | None = None,
) -> None:
    await audit.write(
        connection,
        who,
        "role:assign",
        role,
        before=before,
        after=after,
        domain=where.domain or holder["domain"],
        project_id=where.id if where.kind is ScopeKind.PROJECT else "",
        user_id=holder["id"],
    )
