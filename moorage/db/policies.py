"""Resource policies: what key pairs, users and projects may have, under a name that many of them carry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.db.engine import reading
from moorage.db.limits import check_slots
from moorage.db.quotas import AMOUNTS, CEILINGS
from moorage.db.wake import wake_schedulers
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.tenancy import PolicyKind, Principal

FIELDS = ("description", *AMOUNTS, *CEILINGS)
_COLUMNS = ", ".join(("kind", "name", *FIELDS))
_JSON = ("max_slots", "max_pending_slots", "idle")
_CARRIERS = {
    PolicyKind.KEYPAIR: "keypairs",
    PolicyKind.USER: "users",
    PolicyKind.PROJECT: "projects",
}
_USED = ", (SELECT count(*) FROM owners o WHERE o.scope = p.kind AND o.policy = p.name) AS used_by"
# New ones get it, so it is always in use.
_DEFAULT = "default"


async def index(engine: AsyncEngine, kind: PolicyKind | None = None) -> list[dict[str, Any]]:
    async with reading(engine) as connection:
        rows = await connection.fetch(
            f"SELECT {_COLUMNS}{_USED} FROM policies p WHERE $1::text IS NULL OR kind = $1 ORDER BY kind, name",
            None if kind is None else str(kind),
        )
    return [dict(row) for row in rows]


async def get(engine: AsyncEngine, kind: PolicyKind, name: str) -> dict[str, Any]:
    async with reading(engine) as connection:
        row = await connection.fetchrow(
            f"SELECT {_COLUMNS}{_USED} FROM policies p WHERE kind = $1 AND name = $2", str(kind), name
        )
    if row is None:
        raise unknown(kind, name)
    return dict(row)


async def create(
    engine: AsyncEngine, who: Principal, kind: PolicyKind, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """A policy with these fields; what is left out is unlimited."""
    async with engine.begin() as connection:
        await _check(connection, values)
        columns = ", ".join(values)
        rows = await connection.execute(
            text(
                f"INSERT INTO policies (kind, name{', ' * bool(values)}{columns}) VALUES"
                f" (:kind, :name{''.join(f', {_given(one)}' for one in values)})"
                f" ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"
            ),
            {"kind": str(kind), "name": name, **_stored(values)},
        )
        row = rows.mappings().one_or_none()
        if row is None:
            raise Conflict(
                f"there is a {kind} policy {name!r} already; change it, or take another name",
                code="policy-exists",
                data={"kind": str(kind), "name": name},
            )
        made = dict(row)
        await audit.write(connection, who, "policy:create", f"{kind}/{name}", after=made)
        return {**made, "used_by": 0}


async def change(
    engine: AsyncEngine, who: Principal, kind: PolicyKind, name: str, values: Mapping[str, Any]
) -> dict[str, Any]:
    """What is left out stays. Live at once for all who carry it; what runs already goes on."""
    async with engine.begin() as connection:
        await _check(connection, values)
        before = await _locked(connection, kind, name)
        if values:
            setting = ", ".join(f"{one} = {_given(one)}" for one in values)
            await connection.execute(
                text(f"UPDATE policies SET {setting} WHERE kind = :kind AND name = :name"),
                {"kind": str(kind), "name": name, **_stored(values)},
            )
            await wake_schedulers(connection)
        after = {**before, **values}
        await audit.write(connection, who, "policy:update", f"{kind}/{name}", before=before, after=after)
    return await get(engine, kind, name)


async def remove(engine: AsyncEngine, who: Principal, kind: PolicyKind, name: str) -> None:
    """Refused while somebody carries it."""
    async with engine.begin() as connection:
        before = await _locked(connection, kind, name)
        carriers = f"SELECT count(*) FROM {_CARRIERS[kind]} WHERE policy = :name"
        users = int((await connection.execute(text(carriers), {"name": name})).scalar_one())
        if users or name == _DEFAULT:
            raise Conflict(
                f"{users} {_CARRIERS[kind]} have the policy {name!r}"
                + (f", and every new {kind} gets it" if name == _DEFAULT else ""),
                code="policy-in-use",
                hint="give them another policy first" if name != _DEFAULT else "change it instead",
                data={"kind": str(kind), "name": name, "used_by": users},
            )
        await connection.execute(
            text("DELETE FROM policies WHERE kind = :kind AND name = :name"), {"kind": str(kind), "name": name}
        )
        await audit.write(connection, who, "policy:delete", f"{kind}/{name}", before=before)


async def check_exists(connection: AsyncConnection, kind: PolicyKind, name: str) -> None:
    """For whoever gives it to somebody: it is there, and stays until the commit."""
    rows = await connection.execute(
        text("SELECT 1 FROM policies WHERE kind = :kind AND name = :name FOR KEY SHARE"),
        {"kind": str(kind), "name": name},
    )
    if rows.first() is None:
        raise unknown(kind, name)


def unknown(kind: PolicyKind, name: str) -> NotFound:
    return NotFound(
        f"there is no {kind} policy {name[:64]!r}",
        code="unknown-resource-policy",
        hint="moor admin policy ls lists them",
        data={"kind": str(kind), "name": name[:64]},
    )


async def _locked(connection: AsyncConnection, kind: PolicyKind, name: str) -> dict[str, Any]:
    rows = await connection.execute(
        text(f"SELECT {_COLUMNS} FROM policies WHERE kind = :kind AND name = :name FOR UPDATE"),
        {"kind": str(kind), "name": name},
    )
    row = rows.mappings().one_or_none()
    if row is None:
        raise unknown(kind, name)
    return dict(row)


async def _check(connection: AsyncConnection, values: Mapping[str, Any]) -> None:
    await check_slots(connection, {**values.get("max_slots", {}), **values.get("max_pending_slots", {})})


def _given(column: str) -> str:
    return f"CAST(:{column} AS jsonb)" if column in _JSON else f":{column}"


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _JSON and value is not None else value for name, value in values.items()}
