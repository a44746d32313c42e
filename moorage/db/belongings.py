"""What a domain, project or user owns: named before it is deleted, and removed with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.domain.errors import Conflict

_FIRST = 10
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"

# Always a text first: PostgreSQL gives a value one type in the whole statement.
_ID = "CAST(CAST(:id AS text) AS uuid)"
# Scope → kind → names. Values: `id` (a domain's name, else an id) and `name` (as limits and grants know the owner).
_SESSIONS = {
    "domain": "s.domain = :id",
    "project": f"s.project_id = {_ID}",
    "user": f"s.user_id = {_ID}",
}
_KEYS_OF_A_USER = f"SELECT access_key FROM keypairs WHERE user_id = {_ID}"
_OF_ALL = {
    "limits": "SELECT scope AS n FROM limits WHERE scope = '{scope}' AND name = :name",
    "grants": "SELECT slot AS n FROM grants WHERE scope = '{scope}' AND name = :name AND revoked_at IS NULL",
    "assignments": "SELECT u.email || ': ' || a.role AS n FROM role_assignments a JOIN users u ON u.id = a.user_id"
    " WHERE a.scope_kind = '{scope}' AND a.scope_id = CAST(:id AS text)",
}
_OWN = {
    "domain": {
        "projects": "SELECT name AS n FROM projects WHERE domain = :id AND deleted_at IS NULL",
        "users": "SELECT email AS n FROM users WHERE domain = :id AND status <> 'deleted'",
    },
    "project": {
        "members": "SELECT u.email AS n FROM memberships m JOIN users u ON u.id = m.user_id"
        f" WHERE m.project_id = {_ID} AND u.status <> 'deleted'",
        "members_without_another": "SELECT u.email AS n FROM memberships m JOIN users u ON u.id = m.user_id"
        f" WHERE m.project_id = {_ID} AND u.status <> 'deleted' AND NOT EXISTS"
        " (SELECT 1 FROM memberships o WHERE o.user_id = u.id AND o.project_id <> m.project_id)",
        "secrets": f"SELECT name AS n FROM secrets WHERE project_id = {_ID}",
    },
    "user": {
        "keypairs": f"SELECT access_key AS n FROM keypairs WHERE user_id = {_ID}",
        "secrets": f"SELECT name AS n FROM secrets WHERE user_id = {_ID}",
        "tokens": f"SELECT name AS n FROM tokens WHERE user_id = {_ID} AND revoked_at IS NULL",
        "logins": f"SELECT client AS n FROM logins WHERE user_id = {_ID} AND revoked_at IS NULL",
        "assignments": f"SELECT role AS n FROM role_assignments WHERE user_id = {_ID}",
    },
}


async def owned(connection: AsyncConnection, scope: str, *, id: str, name: str) -> dict[str, Any]:
    """Kind → how many, and the first names."""
    kinds = {
        "live_sessions": f"SELECT s.name AS n FROM sessions s WHERE {_SESSIONS[scope]} AND {_LIVE}",
        "ended_sessions": f"SELECT s.name AS n FROM sessions s WHERE {_SESSIONS[scope]} AND NOT ({_LIVE})",
        **{kind: query.format(scope=scope) for kind, query in _OF_ALL.items()},
        **_OWN[scope],
    }
    counted = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, (SELECT count(*) FROM ({query}) q) AS count,"
        f" ARRAY(SELECT n FROM ({query}) q ORDER BY n LIMIT {_FIRST}) AS first"
        for kind, query in kinds.items()
    )
    rows = await connection.execute(text(counted), {"id": id, "name": name})
    return {row["kind"]: {"count": row["count"], "first": list(row["first"])} for row in rows.mappings()}


async def live_session_ids(connection: AsyncConnection, scope: str, id: str) -> list[str]:
    rows = await connection.execute(
        text(f"SELECT s.id::text FROM sessions s WHERE {_SESSIONS[scope]} AND {_LIVE} ORDER BY s.created_at"),
        {"id": id},
    )
    return list(rows.scalars())


def refuse_if_still_owned(name: str, owns: Mapping[str, Any], kinds: Iterable[str], hint: str) -> None:
    still = {kind: owns[kind] for kind in kinds if owns[kind]["count"]}
    if still:
        words = (f"{one['count']} {kind.replace('_', ' ')} ({_some(one)})" for kind, one in still.items())
        raise Conflict(f"{name} still has {', '.join(words)}", code="still-owned", hint=hint, data={"owns": dict(owns)})


def _some(kind: Mapping[str, Any]) -> str:
    return ", ".join(kind["first"][:3]) + (", …" if kind["count"] > 3 else "")


async def refuse_while_live(connection: AsyncConnection, scope: str, id: str, name: str) -> None:
    """A purge takes what running containers may still need."""
    live = await live_session_ids(connection, scope, id)
    if live:
        raise Conflict(
            f"{len(live)} sessions of {name} have not ended yet",
            code="still-owned",
            hint="wait until they are over",
            data={"owns": {"live_sessions": {"count": len(live), "first": live[:_FIRST]}}},
        )


async def drop(connection: AsyncConnection, scope: str, *, id: str, name: str) -> None:
    """Limits, grants and roles of this owner are gone; resource groups and roles held in it don't name it any more."""
    values = {"id": id, "name": name}
    for table in ("limits", "grants"):
        await connection.execute(text(f"DELETE FROM {table} WHERE scope = '{scope}' AND name = :name"), values)
    await connection.execute(
        text(f"DELETE FROM role_assignments WHERE scope_kind = '{scope}' AND scope_id = CAST(:id AS text)"), values
    )
    if scope in ("domain", "project"):
        column = f"allowed_{scope}s"
        await connection.execute(
            text(f"UPDATE resource_groups SET {column} = array_remove({column}, :name) WHERE :name = ANY({column})"),
            values,
        )


async def drop_keys(connection: AsyncConnection, user_id: str) -> list[str]:
    """The user's key pairs are gone, with what was allowed to them."""
    values = {"id": user_id}
    for table in ("limits", "grants"):
        await connection.execute(
            text(f"DELETE FROM {table} WHERE scope = 'keypair' AND name IN ({_KEYS_OF_A_USER})"), values
        )
    gone = await connection.execute(text(f"DELETE FROM keypairs WHERE user_id = {_ID} RETURNING access_key"), values)
    return list(gone.scalars())
