"""Who belongs to which project. A user belongs to one at least; one of them is its main one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit, projects, user_reach
from moorage.db.project_reference import not_of
from moorage.db.tree import Row, one, page
from moorage.domain.errors import Conflict
from moorage.domain.tenancy import Principal

_COLUMNS = "u.id::text AS id, u.email, u.name, u.status, u.role, u.project_id = m.project_id AS is_main, m.joined_at"


async def index(
    engine: AsyncEngine, who: Principal, project: str, *, limit: int = 100, offset: int = 0
) -> tuple[list[Row], int]:
    """The members that one may see, by e-mail address."""
    row = await projects.get(engine, who, project)
    values: list[Any] = [row["id"]]
    conditions = [
        "m.project_id = $1::uuid",
        "u.status <> 'deleted'",
        user_reach.readable(who.reach("user:read"), values),
    ]
    source = "memberships m JOIN users u ON u.id = m.user_id"
    return await page(engine, _COLUMNS, source, conditions, values, order="u.email", limit=limit, offset=offset)


async def add(engine: AsyncEngine, who: Principal, project: str, user: str) -> Row:
    """The user of the project's domain belongs to it. Nothing happens if it does already."""
    async with engine.begin() as connection:
        row = await projects.locked(connection, who, project, "project:update", lock="FOR KEY SHARE")
        member = await _of_domain(connection, user, row["domain"])
        made = await connection.execute(
            text(
                "INSERT INTO memberships (user_id, project_id) VALUES (CAST(:user AS uuid), CAST(:project AS uuid))"
                " ON CONFLICT DO NOTHING RETURNING 1"
            ),
            {"user": member["id"], "project": row["id"]},
        )
        if made.first() is not None:
            await _leave_the_deleted(connection, member["id"], row["id"])
            await _audit(connection, who, row, member, after={"member": member["email"]})
        return await _row(connection, row["id"], member["id"])


async def remove(engine: AsyncEngine, who: Principal, project: str, user: str) -> None:
    """The user doesn't belong to the project any more; its sessions there go on. Its main project moves on."""
    async with engine.begin() as connection:
        row = await projects.locked(connection, who, project, "project:update", lock="FOR KEY SHARE")
        member = await _of_domain(connection, user, row["domain"])
        others = await one(
            connection,
            "SELECT count(*) FILTER (WHERE m.project_id <> CAST(:project AS uuid)) AS others,"
            " COALESCE(bool_or(m.project_id = CAST(:project AS uuid)), false) AS belongs FROM memberships m"
            " WHERE m.user_id = CAST(:user AS uuid)",
            {"user": member["id"], "project": row["id"]},
        )
        assert others is not None
        if not others["belongs"]:
            raise user_reach.unknown(user)
        if not others["others"]:
            raise Conflict(
                f"{member['email']} belongs to no other project, and a user needs one",
                code="last-project",
                hint="add it to another project first, or delete the user",
            )
        await _take_out(connection, member["id"], row["id"])
        await _audit(connection, who, row, member, before={"member": member["email"]})


async def hold(connection: AsyncConnection, who: Principal) -> None:
    """Refuses whoever was shut out, or isn't of the project any more; else neither changes until the commit."""
    row = await one(
        connection,
        "SELECT 1 FROM users u JOIN memberships m ON m.user_id = u.id JOIN projects p ON p.id = m.project_id"
        " JOIN domains d ON d.name = p.domain WHERE u.id = CAST(:user AS uuid) AND p.id = CAST(:project AS uuid)"
        " AND u.status = 'active' AND p.is_active AND (d.is_active OR u.role = 'superadmin')"
        " FOR KEY SHARE OF u, m, p",
        {"user": who.user_id, "project": who.project_id},
    )
    if row is None:
        raise not_of(who.project)


async def _of_domain(connection: AsyncConnection, user: str, domain: str) -> Row:
    """Whoever administers a project may name everybody of its domain, by the exact address."""
    row = await one(
        connection,
        "SELECT id::text AS id, email, domain FROM users WHERE domain = :domain AND status <> 'deleted'"
        " AND :user IN (email, id::text) FOR UPDATE",
        {"user": user_reach.address_of(user), "domain": domain},
    )
    if row is None:
        raise user_reach.unknown(user)
    return row


async def _leave_the_deleted(connection: AsyncConnection, user_id: str, project_id: str) -> None:
    """Whose only project was deleted has a main project again."""
    values = {"user": user_id, "project": project_id}
    gone = await connection.execute(
        text(
            "DELETE FROM memberships m USING projects p WHERE p.id = m.project_id AND p.deleted_at IS NOT NULL"
            " AND m.user_id = CAST(:user AS uuid) RETURNING 1"
        ),
        values,
    )
    if gone.first() is not None:
        await connection.execute(
            text("UPDATE users SET project_id = CAST(:project AS uuid) WHERE id = CAST(:user AS uuid)"), values
        )


async def _take_out(connection: AsyncConnection, user_id: str, project_id: str) -> None:
    values = {"user": user_id, "project": project_id}
    await connection.execute(
        text("DELETE FROM memberships WHERE user_id = CAST(:user AS uuid) AND project_id = CAST(:project AS uuid)"),
        values,
    )
    await connection.execute(
        text(
            "UPDATE users SET project_id = (SELECT m.project_id FROM memberships m"
            " JOIN projects p ON p.id = m.project_id WHERE m.user_id = users.id"
            " ORDER BY p.is_active DESC, m.joined_at, p.name LIMIT 1)"
            " WHERE id = CAST(:user AS uuid) AND project_id = CAST(:project AS uuid)"
        ),
        values,
    )


async def _row(connection: AsyncConnection, project_id: str, user_id: str) -> Row:
    row = await one(
        connection,
        "SELECT p.domain, p.name AS project, u.email, u.project_id = p.id AS is_main FROM projects p, users u"
        " WHERE p.id = CAST(:project AS uuid) AND u.id = CAST(:user AS uuid)",
        {"project": project_id, "user": user_id},
    )
    assert row is not None
    return row


async def _audit(
    connection: AsyncConnection,
    who: Principal,
    project: Row,
    member: Row,
    *,
    before: Row | None = None,
    after: Row | None = None,
) -> None:
    await audit.write(
        connection,
        who,
        "project:update",
        f"{project['domain']}/{project['name']}",
        before=before,
        after=after,
        domain=project["domain"],
        project_id=project["id"],
        user_id=member["id"],
    )
