"""What a pass sees of policies, limits and grants."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import nodes, placements
from moorage.db.snapshots import View, read_snapshot
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy, Scope, TenantState
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
ADA = (Scope.USER, "ada@example.org")
GRANT = (
    "INSERT INTO grants (id, scope, name, slot, amount, starts_at, ends_at, given_by) VALUES (gen_random_uuid(),"
    " 'user', 'ada@example.org', :slot, :amount, now() + CAST(CAST(:starts AS text) AS interval),"
    " now() + CAST(CAST(:ends AS text) AS interval), 'root')"
)


async def run(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


async def limit_users(engine: AsyncEngine, columns: str) -> None:
    await run(engine, f"UPDATE policies SET {columns} WHERE kind = 'user' AND name = 'default'")


async def a_pass(engine: AsyncEngine) -> int:
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    return len(await placements.commit_decisions(engine, "default", epoch, decisions, SEAL))


async def tenants(engine: AsyncEngine) -> dict[tuple[Scope, str], TenantState]:
    return {(one.scope, one.name): one for one in (await read_snapshot(engine, "default")).tenants}


async def three_waiting(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    user = await a_user(engine)
    for _ in range(3):
        await a_pending_session(engine, user)


async def test_a_policy_limits_each_of_its_users_alone(engine: AsyncEngine) -> None:
    await three_waiting(engine)
    bob = await a_user(engine, "bob@example.org")
    for _ in range(3):
        await a_pending_session(engine, bob, cpu=100)
    await limit_users(engine, "max_sessions = 1")
    assert await a_pass(engine) == 2
    assert {key: one.sessions for key, one in (await tenants(engine)).items()} == {
        ADA: 1,
        (Scope.USER, "bob@example.org"): 1,
    }


async def test_whoever_has_no_session_costs_a_pass_nothing(engine: AsyncEngine) -> None:
    await three_waiting(engine)
    await a_user(engine, "idle@example.org")
    await limit_users(engine, "max_sessions = 1")
    assert set(await tenants(engine)) == {ADA}


async def test_a_limit_of_ones_own_comes_before_the_policy_field_by_field(engine: AsyncEngine) -> None:
    await three_waiting(engine)
    await limit_users(engine, """max_sessions = 1, max_slots = '{"cpu": 1000, "mem": 1000}'""")
    await run(
        engine,
        "INSERT INTO limits (scope, name, max_slots, weight)"
        """ VALUES ('user', 'ada@example.org', '{"cpu": 2000}', 3)""",
    )
    ada = (await tenants(engine))[ADA]
    assert (ada.max_sessions, ada.max_slots, ada.weight) == (1, {"cpu": 2000, "mem": 1000}, 3)


@pytest.mark.parametrize(("slot", "amount"), [("sessions", 1), ("cpu", 1000)])
async def test_a_grant_adds_to_the_limit_while_it_lasts(engine: AsyncEngine, slot: str, amount: int) -> None:
    await three_waiting(engine)
    await limit_users(engine, "max_sessions = 1" if slot == "sessions" else """max_slots = '{"cpu": 1000}'""")
    await run(engine, GRANT, slot=slot, amount=amount, starts="-1 hour", ends="1 hour")
    assert await a_pass(engine) == 2
    await run(engine, "UPDATE grants SET ends_at = now()")
    ada = (await tenants(engine))[ADA]
    assert ada.sessions == 2, "what runs goes on"
    assert ada.max_sessions == 1 if slot == "sessions" else ada.max_slots == {"cpu": 1000}
    assert await a_pass(engine) == 0


async def test_grants_add_up_and_revoked_ones_do_not_count(engine: AsyncEngine) -> None:
    await three_waiting(engine)
    await limit_users(engine, "max_sessions = 0")
    for _ in range(2):
        await run(engine, GRANT, slot="sessions", amount=1, starts="0 s", ends="1 hour")
    assert (await tenants(engine))[ADA].max_sessions == 2
    await run(engine, "UPDATE grants SET revoked_at = now()")
    assert (await tenants(engine))[ADA].max_sessions == 0


async def test_a_grant_that_begins_later_is_seen_by_the_next_look_without_a_word(engine: AsyncEngine) -> None:
    await three_waiting(engine)
    await limit_users(engine, "max_sessions = 1")
    await run(engine, GRANT, slot="sessions", amount=1, starts="1 hour", ends="2 hours")
    view = View(engine, "default")
    assert [one.max_sessions for one in (await view.whole()).tenants] == [1]
    assert (await view.changes())[1].tenants == ()
    await run(engine, "UPDATE grants SET starts_at = now() - interval '1 second'")  # an hour later
    assert [one.max_sessions for one in (await view.changes())[1].tenants] == [2]


async def test_whoever_comes_under_a_policy_is_seen_by_the_next_look(engine: AsyncEngine) -> None:
    await limit_users(engine, "max_sessions = 1")
    view = View(engine, "default")
    assert (await view.whole()).tenants == ()
    await three_waiting(engine)
    assert [(one.scope, one.name) for one in (await view.changes())[1].tenants] == [ADA]
