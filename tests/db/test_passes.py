"""What is kept of passes and estimates, on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import nodes, passes, placements
from moorage.db.snapshots import read_snapshot
from moorage.scheduler.decide import decide
from moorage.scheduler.simulate import replay
from moorage.scheduler.snapshot import Decisions, Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)


async def kept_pass(engine: AsyncEngine) -> Decisions:
    """A pass as the loop makes and keeps it."""
    epoch = await placements.take_epoch(engine, "default")
    snapshot, policy = await read_snapshot(engine, "default"), Policy()
    decisions = decide(snapshot, policy)
    placed = await placements.commit_decisions(engine, "default", epoch, decisions, SEAL)
    await passes.keep(engine, "default", epoch, snapshot, policy, decisions, placed=len(placed), took_ms=1.0)
    return decisions


async def all_kept(engine: AsyncEngine) -> list[passes.Pass]:
    now = datetime.now(UTC)
    return await passes.between(engine, "default", now - timedelta(hours=1), now + timedelta(hours=1))


async def test_a_kept_pass_is_decided_again_with_the_same_placements(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(cpu=2000))
    user = await a_user(engine)
    for _ in range(3):
        await a_pending_session(engine, user)
    decisions = await kept_pass(engine)
    [one] = await all_kept(engine)
    assert one.decisions == decisions
    [shift] = replay([(one.snapshot, one.policy, one.decisions)])
    assert len(shift.same) == 2
    assert not (shift.earlier or shift.later or shift.elsewhere)


async def test_old_passes_are_forgotten(engine: AsyncEngine) -> None:
    for _ in range(2):
        await kept_pass(engine)
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE passes SET at = now() - interval '8 days' WHERE id = (SELECT min(id) FROM passes)")
        )
    assert await passes.forget_old(engine) == 1
    assert len(await all_kept(engine)) == 1


async def test_an_estimate_is_judged_by_the_start_that_came(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    assert await passes.without_estimate(engine, "default", 10) == [session_id]
    now = datetime.now(UTC).timestamp()
    await passes.keep_estimate(engine, "default", session_id, now + 60, now + 90)
    await passes.keep_estimate(engine, "default", session_id, now + 999, now + 999)
    assert await passes.without_estimate(engine, "default", 10) == []
    assert (await passes.estimate_error(engine, "default"))["judged"] == 0
    await kept_pass(engine)
    error = await passes.estimate_error(engine, "default")
    assert (error["judged"], error["started_by_p90"]) == (1, 1.0)
    assert 55 < error["median_error_s"] <= 60, "the first word counts"
