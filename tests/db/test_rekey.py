"""Keys change while everything that is sealed stays readable."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import rekey, tenancy
from moorage.domain.ids import new_id
from moorage.seal import Seal
from tests.support.builders import a_pending_session

OLD, NEW = "k1:" + "11" * 32, "k2:" + "22" * 32
RING = Seal(f"{NEW},{OLD}")


@pytest.fixture
async def sealed(engine: AsyncEngine) -> AsyncEngine:
    """One value of the old key in each sealed column, and a key pair of the new one."""
    old = Seal(OLD)
    await tenancy.create_user(engine, old, "ada@example.org", "a password")
    await tenancy.create_user(engine, RING, "bob@example.org", "a password")
    async with engine.begin() as connection:
        rows = await connection.execute(text("SELECT id::text FROM users WHERE email = 'ada@example.org'"))
        ada = rows.scalar_one()
        await connection.execute(
            text("UPDATE users SET totp_secret = :sealed WHERE id = :id"), {"sealed": old.seal(b"totp"), "id": ada}
        )
        await connection.execute(
            text("INSERT INTO secrets (id, user_id, name, value, created_by) VALUES (:id, :user, 's', :sealed, 'ada')"),
            {"id": new_id(), "user": ada, "sealed": old.seal(b"value")},
        )
        await connection.execute(
            text("INSERT INTO registries (host, username, password, created_by) VALUES ('r', 'u', :sealed, 'ada')"),
            {"sealed": old.seal(b"password")},
        )
    await a_pending_session(engine, ada, env=old.seal(b"{}"), ssh_key=old.seal(b"key"))
    return engine


async def values(engine: AsyncEngine, column: rekey.Sealed) -> list[bytes]:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {column.column} FROM {column.table} WHERE {column.column} IS NOT NULL")
        )
        return [bytes(value) for value in rows.scalars()]


async def done(engine: AsyncEngine, seal: Seal) -> dict[str, int]:
    return {name: count async for name, count in rekey.reseal(engine, seal)}


async def test_what_older_keys_sealed_is_counted_by_column_and_key(sealed: AsyncEngine) -> None:
    left = await rekey.remaining(sealed, RING)
    assert left == {column.name: {"k1": 1} for column in rekey.SEALED}
    assert await rekey.remaining(sealed, Seal(f"{OLD},{NEW}")) == {
        **{column.name: {} for column in rekey.SEALED},
        "keypairs.secret": {"k2": 1},
    }


async def test_everything_is_sealed_with_the_first_key_and_the_old_one_may_go(sealed: AsyncEngine) -> None:
    assert await done(sealed, RING) == {column.name: 1 for column in rekey.SEALED}
    assert not any((await rekey.remaining(sealed, RING)).values())
    alone = Seal(NEW)
    opened = [alone.open(value) for column in rekey.SEALED for value in await values(sealed, column)]
    assert {b"totp", b"value", b"{}"} < set(opened)
    assert await done(sealed, RING) == {}


async def test_one_that_breaks_off_goes_on_where_it_was(sealed: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rekey, "_BATCH", 1)
    steps = rekey.reseal(sealed, RING)
    await anext(steps)
    await steps.aclose()
    assert sum(sum(keys.values()) for keys in (await rekey.remaining(sealed, RING)).values()) == 5
    assert sum((await done(sealed, RING)).values()) == 5


async def test_a_ring_that_lacks_an_old_key_changes_nothing_and_names_the_key(sealed: AsyncEngine) -> None:
    before = [await values(sealed, column) for column in rekey.SEALED]
    with pytest.raises(ValueError, match="no key 'k1'"):
        await done(sealed, Seal(NEW))
    assert [await values(sealed, column) for column in rekey.SEALED] == before


@pytest.mark.parametrize("status", ["TERMINATED", "CANCELLED", "ERROR"])
async def test_an_ended_session_keeps_neither_environment_nor_key(sealed: AsyncEngine, status: str) -> None:
    async with sealed.begin() as connection:
        await connection.execute(text("UPDATE sessions SET status = :status"), {"status": status})
        found: Any = (await connection.execute(text("SELECT env, ssh_key FROM sessions"))).one()
    assert tuple(found) == (None, None)


async def test_every_sealed_column_is_known(sealed: AsyncEngine) -> None:
    """Whoever adds a column of bytes says here whether it is sealed."""
    async with sealed.connect() as connection:
        rows = await connection.execute(
            text("SELECT table_name, column_name FROM information_schema.columns"
                 " WHERE table_schema = 'public' AND data_type = 'bytea'")
        )  # fmt: skip
        columns = {(row.table_name, row.column_name) for row in rows}
    others = {("logins", "refresh_hash"), ("logins", "previous_hash"), ("tokens", "hash"), ("audit", "hash"),
              ("audit", "previous"), ("passes", "snapshot"), ("passes", "decisions")}  # fmt: skip
    assert columns - others == {(column.table, column.column) for column in rekey.SEALED}
