"""One owner's limit over the whole cluster, with the schedulers of two groups at work at the same time."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import nodes, placements
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Decisions, Placement, Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)


async def run(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


async def two_groups(engine: AsyncEngine, sessions: int = 3) -> None:
    """Each with a node, and sessions of one user that wait in it."""
    await run(engine, "INSERT INTO resource_groups (name, policy, selector) VALUES ('other', 'fifo', 'concentrated')")
    await nodes.register(engine, an_agent("n1"))
    await nodes.register(engine, an_agent("n2", resource_group="other"))
    user = await a_user(engine)
    for group in ("default", "other"):
        for _ in range(sessions):
            session_id, _ = await a_pending_session(engine, user)
            await run(engine, "UPDATE sessions SET resource_group = :group WHERE id = :id", group=group, id=session_id)


async def decided(engine: AsyncEngine, group: str) -> tuple[str, int, Decisions]:
    epoch = await placements.take_epoch(engine, group)
    return group, epoch, decide(await read_snapshot(engine, group), Policy())


async def committed(engine: AsyncEngine, pass_: tuple[str, int, Decisions]) -> int:
    return len(await placements.commit_decisions(engine, *pass_, SEAL))


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        ("INSERT INTO limits (scope, name, max_sessions) VALUES ('user', 'ada@example.org', 3)", 3),
        ("""INSERT INTO limits (scope, name, max_slots) VALUES ('domain', 'default', '{"cpu": 4000}')""", 4),
        ("UPDATE policies SET max_sessions = 2 WHERE kind = 'user' AND name = 'default'", 2),
        ("UPDATE policies SET max_sessions = 1 WHERE kind = 'project' AND name = 'default'", 1),
    ],
    ids=["a user", "a domain's slots", "a user's policy", "a project's policy"],
)
async def test_two_groups_that_decide_at_once_do_not_exceed_a_limit(
    engine: AsyncEngine, database_url: str, limit: str, allowed: int
) -> None:
    await two_groups(engine)
    await run(engine, limit)
    passes = [await decided(engine, group) for group in ("default", "other")]
    assert sum(len(decisions.placements) for _, _, decisions in passes) > allowed, "each saw nothing of the other"
    placed = await asyncio.gather(*(committed(engine, one) for one in passes))
    assert sum(placed) == allowed
    again = [await decided(engine, group) for group in ("default", "other")]
    assert [len(decisions.placements) for _, _, decisions in again] == [0, 0]
    assert await violations(database_url) == []


async def test_whoever_reaches_the_limit_leaves_the_others_their_place(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    ada, bob = await a_user(engine), await a_user(engine, "bob@example.org")
    wishes = [await a_pending_session(engine, user) for user in (ada, ada, bob)]
    await run(engine, "INSERT INTO limits (scope, name, max_sessions) VALUES ('user', 'ada@example.org', 1)")
    epoch = await placements.take_epoch(engine, "default")
    all_of_them = Decisions(tuple(Placement(session_id, 0, {kernel: "n1"}) for session_id, kernel in wishes))
    made = await placements.commit_decisions(engine, "default", epoch, all_of_them, SEAL)
    assert [str(one.row["id"]) for one in made] == [wishes[0][0], wishes[2][0]]
