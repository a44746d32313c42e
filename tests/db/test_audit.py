"""The chain: it grows one row after the other, and whoever changes a row of it is found out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import audit, trail
from moorage.db.audit import Asking, asking
from moorage.domain.chain import Broken, Chain, Head, hash_of, parse_head
from moorage.domain.errors import InvalidRequest
from moorage.domain.permissions import BUILT_IN, Held, ScopeKind
from moorage.domain.tenancy import Principal

IDS = {name: f"00000000-0000-4000-8000-00000000000{number}" for number, name in enumerate(("ada", "bob", "red"), 2)}


def somebody(name: str = "ada", *held: Held, domain: str = "default", **more: Any) -> Principal:
    return Principal(
        user_id=IDS[name],
        email=f"{name}@example.org",
        role="user",
        domain=domain,
        project_id=IDS["red"],
        held=held or (Held(ScopeKind.USER, IDS[name], BUILT_IN["user"]),),
        **more,
    )


ROOT = somebody("bob", Held(ScopeKind.GLOBAL, "", BUILT_IN["superadmin"]))


async def written(engine: AsyncEngine, count: int = 5, who: Principal | None = None, **more: Any) -> None:
    for number in range(count):
        await audit.write_alone(engine, who or somebody(), "session:create", f"s{number}", **more)


async def as_superuser(engine: AsyncEngine, *statements: str) -> None:
    """With the triggers off, as only the database's own superuser may."""
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            await connection.execute(text(statement))


async def broken(engine: AsyncEngine, expected: Head | None = None) -> Broken | None:
    return (await trail.verify(engine, expected=expected))[1]


async def broken_at(engine: AsyncEngine, expected: Head | None = None) -> int | None:
    what = await broken(engine, expected)
    return what["seq"] if what is not None else None


async def found(engine: AsyncEngine, who: Principal, **sought: Any) -> list[dict[str, Any]]:
    rows = await trail.page(engine, who, trail.Sought(**sought), after=None, limit=100, newest_first=False)
    return [json.loads(row["record"]) for row in rows]


async def test_an_untouched_chain_is_proven(engine: AsyncEngine) -> None:
    assert await trail.verify(engine) == (Chain(), None)
    await written(engine)
    chain, nothing = await trail.verify(engine)
    assert (chain.rows, chain.seq, nothing) == (5, 5, None)


async def test_the_proof_goes_on_over_many_batches(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail, "_BATCH", 2)
    await written(engine)
    assert (await trail.verify(engine))[0].rows == 5
    assert len([row async for row in trail.every(engine, ROOT, trail.Sought())]) == 5
    await as_superuser(engine, "DELETE FROM audit WHERE seq = 3")
    assert await broken_at(engine) == 3


@pytest.mark.parametrize(
    ("tampering", "seq", "said"),
    [
        ("UPDATE audit SET record = replace(record, 's2', 's9') WHERE seq = 3", 3, "hash"),
        ("UPDATE audit SET hash = sha256('x') WHERE seq = 3", 3, "hash"),
        ("UPDATE audit SET previous = sha256('x') WHERE seq = 3", 3, "does not follow"),
        ("UPDATE audit SET actor = 'eve' WHERE seq = 3", 3, "column actor"),
        ("UPDATE audit SET at = at - interval '1 hour' WHERE seq = 3", 3, "column at"),
        ("UPDATE audit SET user_id = '' WHERE seq = 3", 3, "column user_id"),
        ("UPDATE audit SET outcome = 'denied' WHERE seq = 5", 5, "column outcome"),
        ("DELETE FROM audit WHERE seq = 3", 3, "missing"),
        ("DELETE FROM audit WHERE seq = 1", 1, "missing"),
        ("UPDATE audit SET seq = CASE seq WHEN 2 THEN -3 ELSE -2 END WHERE seq IN (2, 3);"
         "UPDATE audit SET seq = -seq WHERE seq < 0", 2, "does not follow"),
        ("UPDATE audit SET seq = 0 WHERE seq = 1", 1, "missing"),
        ("INSERT INTO audit SELECT -7, at, actor, acted_as, address, operation, entity, entity_id, domain, project_id,"
         " user_id, outcome, request_id, record, '', '' FROM audit WHERE seq = 1", 1, "missing"),
        ("UPDATE audit SET hash = sha256(previous || convert_to(seq || ' ' || replace(record, 's2', 's9'), 'UTF8')),"
         " record = replace(record, 's2', 's9'), entity_id = 's9' WHERE seq = 3", 4, "does not follow"),
    ],
    ids=range(13),
)  # fmt: skip
async def test_whoever_changes_the_past_is_found_out(engine: AsyncEngine, tampering: str, seq: int, said: str) -> None:
    await written(engine)
    await as_superuser(engine, *tampering.split(";"))
    what = await broken(engine)
    assert what is not None
    assert what["seq"] == seq
    assert said in what["what"]


async def test_a_cut_off_end_is_found_by_an_earlier_head(engine: AsyncEngine) -> None:
    await written(engine)
    chain, _ = await trail.verify(engine)
    head = Head(chain.seq, chain.head)
    await as_superuser(engine, "DELETE FROM audit WHERE seq > 3")
    assert await broken(engine) is None
    assert await broken_at(engine, head) == 4
    await written(engine, 2)
    what = await broken(engine, head)
    assert what is not None
    assert "written anew" in what["what"]


async def test_an_earlier_head_holds_while_rows_are_added(engine: AsyncEngine) -> None:
    await written(engine)
    chain, _ = await trail.verify(engine)
    await written(engine)
    assert await broken(engine, Head(chain.seq, chain.head)) is None
    assert await broken_at(engine, Head(3, b"x" * 32)) == 3


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_a_row_stays_as_it_was_written(engine: AsyncEngine, statement: str) -> None:
    await written(engine, 1)
    with pytest.raises(DBAPIError, match="not rewritten"):
        async with engine.begin() as connection:
            await connection.execute(text(statement))


async def test_nobody_chooses_his_own_place_or_hash(engine: AsyncEngine) -> None:
    await written(engine, 1)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO audit SELECT 99, at, actor, acted_as, address, operation, entity, entity_id, domain,"
                " project_id, user_id, outcome, request_id, record, 'x', 'y' FROM audit"
            )
        )
    assert (await trail.verify(engine))[0].seq == 2


async def test_writers_at_once_take_turns_and_leave_no_gap(engine: AsyncEngine) -> None:
    await asyncio.gather(*(written(engine, 5) for _ in range(8)))
    chain, nothing = await trail.verify(engine)
    assert (chain.rows, chain.seq, nothing) == (40, 40, None)


async def test_who_goes_on_after_his_row_keeps_nobody_waiting(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await audit.write(connection, somebody(), "session:create", "slow")
        async with asyncio.timeout(5):
            await written(engine, 2)
        await audit.write(connection, somebody(), "session:create", "slow too")
    assert [row["entity_id"] for row in await found(engine, ROOT)] == ["s0", "s1", "slow", "slow too"]
    assert await broken(engine) is None


async def test_a_change_that_is_taken_back_leaves_no_row_and_no_gap(engine: AsyncEngine) -> None:
    with pytest.raises(RuntimeError):
        async with engine.begin() as connection:
            await audit.write(connection, ROOT, "user:delete", "x")
            raise RuntimeError
    await written(engine, 1)
    assert (await trail.verify(engine))[0].seq == 1


async def test_a_row_says_who_asked_as_whom_from_where(engine: AsyncEngine) -> None:
    token = asking.set(Asking("192.0.2.1", "r1"))
    try:
        await written(engine, 1, somebody(actor="root@example.org", credential="login:1"), before={"a": 1}, code="c")
    finally:
        asking.reset(token)
    (row,) = await found(engine, ROOT)
    at = row.pop("at")
    assert at.endswith("+00:00")
    assert row == {
        "actor": "root@example.org", "acted_as": "ada@example.org", "credential": "login:1", "address": "192.0.2.1",
        "operation": "session:create", "entity": "session", "entity_id": "s0", "domain": "default", "project_id": "",
        "user_id": IDS["ada"], "before": {"a": 1}, "after": None, "outcome": "success", "code": "c", "count": 1,
        "request_id": "r1",
    }  # fmt: skip


async def test_what_strangers_wrote_is_kept_on_one_line(engine: AsyncEngine) -> None:
    forged = "x\r\n\x00\x1b[2J\u2028\ud800ü"
    await audit.write_alone(engine, somebody(), "session:create", forged, after={"name": forged}, outcome="denied")
    async with engine.connect() as connection:
        entity_id, record = (await connection.execute(text("SELECT entity_id, record FROM audit"))).one()
    assert entity_id == "x\\r\\n\\x00\\x1b[2J\\u2028\\ud800ü"
    assert record.isascii()
    assert record.isprintable()
    assert json.loads(record)["after"]["name"] == forged
    assert await broken(engine) is None


async def test_one_reads_what_lies_within_reach(engine: AsyncEngine) -> None:
    await written(engine, 1, somebody("ada"), after={"n": "ada"})
    await written(engine, 1, somebody("bob"), after={"n": "bob"}, project_id=IDS["red"])
    await written(engine, 1, somebody("bob", domain="other"), after={"n": "other"})
    await audit.write_alone(engine, None, "auth:login", "", outcome="denied", after={"n": "nobody"})
    readers = {
        "ada": somebody("ada"),
        "project": somebody("ada", Held(ScopeKind.PROJECT, IDS["red"], BUILT_IN["project-admin"])),
        "both": somebody(
            "ada",
            Held(ScopeKind.USER, IDS["ada"], BUILT_IN["user"]),
            Held(ScopeKind.PROJECT, IDS["red"], BUILT_IN["project-admin"]),
        ),
        "domain": somebody("ada", Held(ScopeKind.DOMAIN, "default", BUILT_IN["domain-admin"])),
        "root": ROOT,
        "member": somebody("ada", Held(ScopeKind.PROJECT, IDS["red"], BUILT_IN["member"])),
    }
    seen = {name: [row["after"]["n"] for row in await found(engine, who)] for name, who in readers.items()}
    assert seen == {
        "ada": ["ada"],
        "project": ["bob"],
        "both": ["ada", "bob"],
        "domain": ["ada", "bob"],
        "root": ["ada", "bob", "other", "nobody"],
        "member": [],
    }


def test_the_hash_is_one_that_anybody_can_compute() -> None:
    assert hash_of(b"", 1, "{}").hex() == "dce5d808836077fc3a135b43658dd7a4d68ae9db859334c2011eca74deaa8e83"


@pytest.mark.parametrize("words", ["", "5", "5:", "5:xyz", "5:" + "0" * 63, "-1:" + "0" * 64, "²:" + "0" * 64])
def test_a_head_is_a_row_and_its_hash(words: str) -> None:
    with pytest.raises(InvalidRequest, match="SEQ:HASH"):
        parse_head(words)
    assert parse_head("5:" + "00" * 32) == Head(5, bytes(32))
