"""Projects of a domain, and who belongs to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit, belongings
from moorage.db.engine import reading
from moorage.db.project_reference import named, parsed, unknown
from moorage.db.reach import within
from moorage.db.tree import (
    Row,
    check_policy,
    differences,
    join_domain,
    not_deleted,
    one,
    page,
    plain,
    settings_of,
)
from moorage.db.tree import (
    deleted as is_deleted,
)
from moorage.domain.errors import Conflict
from moorage.domain.ids import checked_tenant_name, new_id
from moorage.domain.tenancy import Principal, forbidden

_PLAIN = "p.id::text AS id, p.domain, p.name, p.description, p.is_active, p.policy, p.created_at, p.deleted_at"
_COLUMNS = (
    f"{_PLAIN}, (SELECT count(*) FROM memberships m JOIN users u ON u.id = m.user_id"
    " WHERE m.project_id = p.id AND u.status <> 'deleted') AS members"
)
_OWNER = {"project": "p.id", "domain": "p.domain"}
# What the domain gives to its projects.
_GIVEN = frozenset({"is_active", "policy"})


async def index(
    engine: AsyncEngine,
    who: Principal,
    *,
    domain: str | None = None,
    deleted: bool = False,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Row], int]:
    values: list[Any] = []
    conditions = [within(who.reach("project:read"), values, **_OWNER)]
    conditions.append(f"p.deleted_at IS {'NOT ' if deleted else ''}NULL")
    if domain is not None:
        values.append(domain)
        conditions.append(f"p.domain = ${len(values)}")
    order = "p.domain, p.name"
    return await page(engine, _COLUMNS, "projects p", conditions, values, order=order, limit=limit, offset=offset)


async def get(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """`ref` is an id, `domain/name`, `domain:name`, or a name in one's own domain."""
    name, domain = parsed(who, ref)
    values: list[Any] = [name] if domain is None else [name, domain]
    condition = "p.id = $1::uuid" if domain is None else "p.name = $1 AND p.domain = $2"
    seen = within(who.reach("project:read"), values, **_OWNER)
    async with reading(engine) as connection:
        found = await connection.fetchrow(f"SELECT {_COLUMNS} FROM projects p WHERE {condition} AND {seen}", *values)
    if found is None:
        raise unknown(ref)
    return plain(dict(found))


async def create(
    engine: AsyncEngine, who: Principal, domain: str, name: str, *, description: str = "", policy: str = "default"
) -> Row:
    """A project without members."""
    checked_tenant_name(name, "project")
    async with engine.begin() as connection:
        await join_domain(connection, who, domain, "project:create")
        await check_policy(connection, "project", policy)
        row = await one(
            connection,
            "INSERT INTO projects AS p (id, domain, name, description, policy) VALUES (:id, :domain, :name,"
            f" :description, :policy) ON CONFLICT (domain, name) DO NOTHING RETURNING {_COLUMNS}",
            {"id": new_id(), "domain": domain, "name": name, "description": description, "policy": policy},
        )
        if row is None:
            raise Conflict(
                f"there is a project {name!r} in domain {domain} already",
                code="project-exists",
                hint="take another name",
            )
        await _audit(connection, who, "project:create", row, after=plain(row))
    return plain(row)


async def change(engine: AsyncEngine, who: Principal, ref: str, changes: Mapping[str, Any]) -> Row:
    """`description`; and, by whoever administers the domain, `is_active` and `policy`."""
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "project:update")
        if not _GIVEN.isdisjoint(changes) and not who.reach("project:update").covers(domain=before["domain"]):
            raise forbidden(who, "project:update")
        if "policy" in changes:
            await check_policy(connection, "project", changes["policy"])
        if changes:
            setting = settings_of(changes, ("description", *_GIVEN))
            await connection.execute(
                text(f"UPDATE projects SET {setting} WHERE id = CAST(:id AS uuid)"), {**changes, "id": before["id"]}
            )
            was, now = differences(before, changes)
            await _audit(connection, who, "project:update", before, before=was, after=now)
    return await get(engine, who, before["id"])


async def owned(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """What a deletion would meet; nothing is changed."""
    async with engine.begin() as connection:
        row = await locked(connection, who, ref, "project:delete")
        return await belongings.owned(connection, "project", id=row["id"], name=_full(row))


async def live_sessions(engine: AsyncEngine, who: Principal, ref: str) -> list[str]:
    """Ids of the sessions that somebody who may delete the project can end."""
    async with engine.begin() as connection:
        row = await locked(connection, who, ref, "project:delete")
        return await belongings.live_session_ids(connection, "project", row["id"])


async def delete(
    engine: AsyncEngine, who: Principal, ref: str, *, forced: bool = False, asked_to_end: Collection[str] = ()
) -> Row:
    """Refused while live sessions, or members without another project, are left. Its name is free again.

    `forced`: such members stay behind and start nothing until they get another project; sessions that were asked to
    end don't count.
    """
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "project:delete")
        owns = await belongings.owned(connection, "project", id=before["id"], name=_full(before))
        live = await belongings.live_session_ids(connection, "project", before["id"])
        kinds = [] if forced else ["members_without_another"]
        kinds += [] if forced and set(live) <= set(asked_to_end) else ["live_sessions"]
        hint = "add them to another project, end the sessions, or force it"
        belongings.refuse_if_still_owned(f"project {_full(before)}", owns, kinds, hint)
        await _leave(connection, before["id"])
        await belongings.drop(connection, "project", id=before["id"], name=_full(before))
        await _mark_deleted(connection, before)
        await _audit(connection, who, "project:delete", before, before=plain(before))
    return owns


async def purge(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """Of a deleted project: its secrets, and what was told of it. Says what is gone."""
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "project:purge", deleted=True)
        if before["deleted_at"] is None:
            raise not_deleted("project", _full(before))
        await belongings.refuse_while_live(connection, "project", before["id"], _full(before))
        removed = await wipe(connection, before["id"])
        await _audit(connection, who, "project:purge", before, after=removed)
    return removed


async def wipe(connection: AsyncConnection, project_id: str) -> Row:
    """What a deleted project still holds is gone; its row too, if nothing of the past refers to it."""
    values = {"id": project_id}
    secrets = await connection.execute(text("DELETE FROM secrets WHERE project_id = CAST(:id AS uuid)"), values)
    await connection.execute(
        text(
            "UPDATE projects SET description = '', name = 'purged~' || left(id::text, 8), policy = 'default'"
            " WHERE id = CAST(:id AS uuid)"
        ),
        values,
    )
    return {"secrets": secrets.rowcount, "row": await _drop_row(connection, project_id)}


async def locked(
    connection: AsyncConnection,
    who: Principal,
    ref: str,
    permission: str,
    *,
    deleted: bool = False,
    lock: str = "FOR UPDATE",
) -> Row:
    """The project stays as it is until the commit. NotFound if `who` may not read it; Forbidden if not do this."""
    condition, values = named(who, ref)
    row = await one(connection, f"SELECT {_PLAIN} FROM projects p WHERE {condition} {lock}", values)
    if row is None or not who.reach("project:read").covers(domain=row["domain"], projects=(row["id"],)):
        raise unknown(ref)
    who.demand(permission, domain=row["domain"], projects=(row["id"],))
    if row["deleted_at"] is not None and not deleted:
        raise is_deleted("project", _full(row))
    return row


def _full(row: Mapping[str, Any]) -> str:
    return f"{row['domain']}/{row['name']}"


async def _leave(connection: AsyncConnection, project_id: str) -> None:
    """Whoever has another project goes on there; the others keep this one as a memory."""
    other = (
        "SELECT o.project_id FROM memberships o JOIN projects p ON p.id = o.project_id WHERE o.user_id = u.id"
        " AND o.project_id <> CAST(:id AS uuid) ORDER BY p.is_active DESC, o.joined_at, p.name LIMIT 1"
    )
    values = {"id": project_id}
    await connection.execute(
        text(
            f"UPDATE users u SET project_id = COALESCE(({other}), u.project_id) WHERE u.project_id = CAST(:id AS uuid)"
        ),
        values,
    )
    await connection.execute(
        text(
            "DELETE FROM memberships m USING users u WHERE m.user_id = u.id AND m.project_id = CAST(:id AS uuid)"
            " AND u.project_id <> m.project_id"
        ),
        values,
    )


async def _mark_deleted(connection: AsyncConnection, row: Row) -> None:
    """The row goes, if nothing refers to it; else it stays under another name."""
    secrets = await connection.execute(
        text("SELECT 1 FROM secrets WHERE project_id = CAST(:id AS uuid) LIMIT 1"), {"id": row["id"]}
    )
    if secrets.first() is None and await _drop_row(connection, row["id"]):
        return
    await connection.execute(
        text("UPDATE projects SET is_active = false, deleted_at = now(), name = :name WHERE id = CAST(:id AS uuid)"),
        {"id": row["id"], "name": f"{row['name']}~{row['id'][:8]}"},
    )


async def _drop_row(connection: AsyncConnection, project_id: str) -> bool:
    gone = await connection.execute(
        text(
            "DELETE FROM projects p WHERE p.id = CAST(:id AS uuid)"
            " AND NOT EXISTS (SELECT 1 FROM users WHERE project_id = p.id)"
            " AND NOT EXISTS (SELECT 1 FROM memberships WHERE project_id = p.id)"
            " AND NOT EXISTS (SELECT 1 FROM sessions WHERE project_id = p.id) RETURNING 1"
        ),
        {"id": project_id},
    )
    return gone.first() is not None


async def _audit(
    connection: AsyncConnection,
    who: Principal,
    operation: str,
    row: Mapping[str, Any],
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    await audit.write(
        connection, who, operation, _full(row), before=before, after=after, domain=row["domain"], project_id=row["id"]
    )
