"""What registries ask for before they give an image. Passwords are sealed, used by nodes, and never read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.domain.errors import NotFound
from moorage.domain.images import checked_host, registry_of
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

_SHOWN = "host, username, created_by, created_at, modified_at"


async def index(engine: AsyncEngine) -> list[dict[str, Any]]:
    """All of them, without their passwords."""
    async with engine.connect() as connection:
        rows = await connection.execute(text(f"SELECT {_SHOWN} FROM registries ORDER BY host"))
        return [_plain(dict(row)) for row in rows.mappings()]


async def put(
    engine: AsyncEngine, seal: Seal, who: Principal, host: str, username: str, password: str
) -> tuple[dict[str, Any], bool]:
    """(what is shown of it, whether it is new). Pulls that begin from now on use it."""
    host = checked_host(host)
    async with engine.begin() as connection:
        before = await _locked(connection, host)
        rows = await connection.execute(
            text(
                "INSERT INTO registries (host, username, password, created_by) VALUES (:host, :username, :password,"
                " :by) ON CONFLICT (host) DO UPDATE SET username = excluded.username, password = excluded.password,"
                f" modified_at = clock_timestamp() RETURNING {_SHOWN}"
            ),
            {
                "host": host,
                "username": username,
                "password": seal.seal(password.encode()),
                "by": who.actor or who.email,
            },
        )
        after = _plain(dict(rows.mappings().one()))
        await audit.write(connection, who, "registry:update", host, before=before, after=after)
    return after, before is None


async def remove(engine: AsyncEngine, who: Principal, host: str) -> None:
    """Pulls from it go on without; what is refused then says so."""
    async with engine.begin() as connection:
        before = await _locked(connection, host)
        if before is None:
            raise NotFound(
                f"there are no credentials for registry {host[:80]!r}",
                code="unknown-registry",
                hint="moor admin registry ls lists those that have some",
            )
        await connection.execute(text("DELETE FROM registries WHERE host = :host"), {"host": host})
        await audit.write(connection, who, "registry:delete", host, before=before)


async def credentials(engine: AsyncEngine, seal: Seal, image: str) -> tuple[str, str]:
    """(user name, password) for the registry of an image; both empty where it has none."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT username, password FROM registries WHERE host = :host"), {"host": registry_of(image)}
        )
        row = rows.one_or_none()
    return ("", "") if row is None else (row.username, seal.open(bytes(row.password)).decode())


async def _locked(connection: AsyncConnection, host: str) -> dict[str, Any] | None:
    rows = await connection.execute(
        text(f"SELECT {_SHOWN} FROM registries WHERE host = :host FOR UPDATE"), {"host": host}
    )
    row = rows.mappings().one_or_none()
    return None if row is None else _plain(dict(row))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "created_at": row["created_at"].isoformat(), "modified_at": row["modified_at"].isoformat()}
