"""Everything sealed in the database, sealed anew with the first key, so that an old one may be dropped."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.seal import Seal

_BATCH = 500


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column, and what tells its rows apart."""

    table: str
    column: str
    key: str
    key_type: str = "uuid"

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"


SEALED = (
    Sealed("keypairs", "secret", "access_key", "text"),
    Sealed("secrets", "value", "id"),
    Sealed("users", "totp_secret", "id"),
    Sealed("registries", "password", "host", "text"),
    Sealed("sessions", "env", "id"),
    Sealed("sessions", "ssh_key", "id"),
)
_KEY_OF = "encode(substring({column} FOR position('\\x3a'::bytea IN {column}) - 1), 'escape')"


async def remaining(engine: AsyncEngine, seal: Seal) -> dict[str, dict[str, int]]:
    """Column → key id → how many values it has that another key than the first one sealed."""
    found: dict[str, dict[str, int]] = {}
    async with engine.connect() as connection:
        for one in SEALED:
            key_of = _KEY_OF.format(column=one.column)
            rows = await connection.execute(
                text(
                    f"SELECT {key_of} AS key, count(*) AS n FROM {one.table} WHERE {one.column} IS NOT NULL"
                    f" AND {key_of} <> :current GROUP BY 1 ORDER BY 1"
                ),
                {"current": seal.current},
            )
            found[one.name] = {row.key: row.n for row in rows}
    return found


async def reseal(engine: AsyncEngine, seal: Seal) -> AsyncGenerator[tuple[str, int], None]:
    """(column, values sealed anew) after each batch, until none is left. What was done stays done when it breaks off.

    Rows that somebody else changes at the moment are waited for: what he writes is sealed with his first key.
    """
    for one in SEALED:
        last: object = None
        while True:
            async with engine.begin() as connection:
                done = await _batch(connection, seal, one, last)
            if not done:
                break
            last = done[-1]
            yield one.name, len(done)


async def _batch(connection: AsyncConnection, seal: Seal, one: Sealed, last: object) -> list[object]:
    """The keys of the rows after the `last` one that were done."""
    rows = await connection.execute(
        text(
            f"SELECT {one.key} AS key, {one.column} AS sealed FROM {one.table} WHERE {one.column} IS NOT NULL"
            f" AND {_KEY_OF.format(column=one.column)} <> :current"
            f" AND (CAST(:last AS {one.key_type}) IS NULL OR {one.key} > CAST(:last AS {one.key_type}))"
            f" ORDER BY {one.key} LIMIT {_BATCH} FOR UPDATE"
        ),
        {"current": seal.current, "last": last},
    )
    anew = [{"key": row.key, "sealed": seal.seal(seal.open(bytes(row.sealed)))} for row in rows]
    if anew:
        await connection.execute(text(f"UPDATE {one.table} SET {one.column} = :sealed WHERE {one.key} = :key"), anew)
    return [row["key"] for row in anew]
