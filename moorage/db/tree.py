"""What domains, projects, users and key pairs have in common: pages, plain rows, and what a change may set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db.engine import reading
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.tenancy import Principal, forbidden

Row = dict[str, Any]


async def page(
    engine: AsyncEngine,
    columns: str,
    source: str,
    conditions: Iterable[str],
    values: list[Any],
    *,
    order: str,
    limit: int,
    offset: int,
) -> tuple[list[Row], int]:
    """(rows in that order, how many there are on all pages). `values` are those of the conditions."""
    where = " AND ".join(conditions) or "true"
    total = f"(SELECT count(*) FROM {source} WHERE {where}) AS total"
    query = f"SELECT {columns}, {total} FROM {source} WHERE {where} ORDER BY {order}"
    async with reading(engine) as connection:
        found = await connection.fetch(
            f"{query} LIMIT ${len(values) + 1} OFFSET ${len(values) + 2}", *values, limit, offset
        )
        if found or not offset:
            count = found[0]["total"] if found else 0
        else:  # behind the last page
            count = await connection.fetchval(f"SELECT count(*) FROM {source} WHERE {where}", *values)
    return [plain({key: value for key, value in row.items() if key != "total"}) for row in found], int(count)


def plain(row: Mapping[str, Any]) -> Row:
    """As JSON takes it: times in ISO."""
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in row.items()}


async def one(connection: AsyncConnection, query: str, values: Mapping[str, Any]) -> Row | None:
    rows = await connection.execute(text(query), values)
    row = rows.mappings().first()
    return None if row is None else dict(row)


def settings_of(changes: Mapping[str, Any], allowed: Iterable[str]) -> str:
    """The SET of an UPDATE. A field that nobody may set is refused here, whoever let it through."""
    unknown = sorted(set(changes) - set(allowed))
    if unknown:
        raise InvalidRequest(f"{', '.join(unknown)[:200]} can't be set", data={"unknown": unknown})
    return ", ".join(f"{name} = :{name}" for name in changes)


def differences(before: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[Row, Row]:
    """(what was, what is now) of the fields that a change names, for the audit."""
    changed = {name: value for name, value in changes.items() if before.get(name) != value}
    return plain({name: before.get(name) for name in changed}), plain(changed)


async def check_policy(connection: AsyncConnection, kind: str, name: str) -> None:
    """The policy stays at least until the commit. `kind`: keypair, user or project."""
    found = await one(
        connection,
        "SELECT 1 FROM policies WHERE kind = :kind AND name = :name FOR KEY SHARE",
        {"kind": kind, "name": name},
    )
    if found is None:
        raise InvalidRequest(
            f"there is no {kind} policy {name[:64]!r}", code="unknown-policy", data={"field": "policy"}
        )


async def join_domain(connection: AsyncConnection, who: Principal, name: str, permission: str) -> None:
    """The domain stays until the commit, and `who` may put something into it (`permission`)."""
    found = await one(
        connection, "SELECT 1 FROM domains WHERE name = :name AND deleted_at IS NULL FOR KEY SHARE", {"name": name}
    )
    reached = who.reach(permission).covers(domain=name)
    if found is None or not (reached or who.domain == name or who.reach("domain:read").covers(domain=name)):
        raise unknown_domain(name)
    if not reached:
        raise forbidden(who, permission)


def unknown_domain(name: str) -> NotFound:
    return NotFound(f"there is no domain {name[:80]!r}", code="unknown-domain")


def deleted(what: str, name: str) -> Conflict:
    return Conflict(f"{what} {name!r} is deleted", code="deleted", hint="purge it, or make a new one")


def not_deleted(what: str, name: str) -> Conflict:
    return Conflict(f"{what} {name!r} is not deleted", code="not-deleted", hint="delete it first")
