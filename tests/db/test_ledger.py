"""The ledger on a real PostgreSQL."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger, nodes, placements
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Decisions, Placement, Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
DONE = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 0", "SUCCESS", 0)


async def used_cpu(engine: AsyncEngine, agent_id: str = "n1") -> int:
    async with engine.connect() as connection:
        query = text("SELECT used FROM agent_slots WHERE agent_id = :id AND slot = 'cpu'")
        return int((await connection.execute(query, {"id": agent_id})).scalar_one())


async def status_of(engine: AsyncEngine, session_id: str) -> str:
    async with engine.connect() as connection:
        return str(
            (
                await connection.execute(text("SELECT status FROM sessions WHERE id = :id"), {"id": session_id})
            ).scalar_one()
        )


async def place(engine: AsyncEngine, epoch: int) -> list[placements.Assigned]:
    snapshot = await read_snapshot(engine, "default")
    return await placements.commit_decisions(engine, "default", epoch, decide(snapshot, Policy()), SEAL)


async def test_a_session_takes_its_slots_and_gives_them_back_once(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    [assigned] = await place(engine, await placements.take_epoch(engine, "default"))
    assert [kernel.kernel_id for kernel in assigned.kernels] == [kernel_id]
    assert await used_cpu(engine) == 1000
    assert await ledger.move(engine, session_id, 0, SessionStatus.CREATING)
    assert await ledger.record_started(engine, session_id, 0, {kernel_id: "c1"}, "on n1")
    assert await ledger.finish(engine, session_id, DONE, actor="workflow") == "TERMINATED"
    assert await ledger.finish(engine, session_id, DONE, actor="workflow") == "TERMINATED"
    assert await used_cpu(engine) == 0
    assert await violations(database_url) == []


async def test_the_first_terminal_status_wins(engine: AsyncEngine) -> None:
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    cancelled = Ending(SessionStatus.CANCELLED, Reason.USER_REQUESTED)
    assert await ledger.finish(engine, session_id, cancelled, actor="user") == "CANCELLED"
    assert await ledger.finish(engine, session_id, DONE, actor="workflow") == "CANCELLED"
    assert not await ledger.move(engine, session_id, 0, SessionStatus.CREATING)


async def test_an_old_epoch_can_not_commit(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    old = await placements.take_epoch(engine, "default")
    await placements.take_epoch(engine, "default")
    with pytest.raises(placements.StaleEpoch):
        await place(engine, old)
    assert await status_of(engine, session_id) == "PENDING"


async def test_a_placement_that_no_longer_fits_is_left_out_alone(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(cpu=1000))
    user = await a_user(engine)
    both = [await a_pending_session(engine, user) for _ in range(2)]
    epoch = await placements.take_epoch(engine, "default")
    greedy = Decisions(tuple(Placement(session, 0, {kernel: "n1"}) for session, kernel in both))
    assigned = await placements.commit_decisions(engine, "default", epoch, greedy, SEAL)
    assert [str(one.row["id"]) for one in assigned] == [both[0][0]]
    assert await status_of(engine, both[1][0]) == "PENDING"
    assert await violations(database_url) == []


async def test_the_database_refuses_what_exceeds_a_node(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(cpu=1000))
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    with pytest.raises(DBAPIError, match="no room"):
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)"
                    " VALUES (:k, 0, 'cpu', :s, 'n1', 1001)"
                ),
                {"k": kernel_id, "s": session_id},
            )


async def test_a_requeued_session_is_first_tried_elsewhere(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent("n1"))
    await nodes.register(engine, an_agent("n2"))
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    epoch = await placements.take_epoch(engine, "default")
    [first] = await place(engine, epoch)
    agent = first.kernels[0].agent_id
    again = await ledger.requeue(
        engine,
        session_id,
        0,
        reason=Reason.FAILED_TO_CREATE,
        message="refused",
        avoid=agent,
    )
    repeated = await ledger.requeue(
        engine,
        session_id,
        0,
        reason=Reason.FAILED_TO_CREATE,
        message="refused",
        avoid=agent,
    )
    assert (again, repeated) == (1, 1)
    [second] = await place(engine, epoch)
    assert second.kernels[0].agent_id != agent
    assert second.kernels[0].attempt == 1
    assert await violations(database_url) == []


async def test_what_a_lost_node_held_is_freed_when_it_proves_its_containers_gone(
    engine: AsyncEngine, database_url: str
) -> None:
    await nodes.register(engine, an_agent())
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    await place(engine, await placements.take_epoch(engine, "default"))
    assert await nodes.mark_lost(engine, "n1") == [session_id]
    lost = Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE")
    await ledger.finish(engine, session_id, lost, actor="workflow", fenced=["n1"])
    assert await used_cpu(engine) == 1000
    assert await nodes.release_fenced(engine, "n1", [(kernel_id, 0)]) == 0
    assert await nodes.release_fenced(engine, "n1", []) == 2
    assert await used_cpu(engine) == 0
    assert await violations(database_url) == []


async def test_a_smaller_node_is_reached_as_sessions_end(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(cpu=4000))
    session_id, _ = await a_pending_session(engine, await a_user(engine), cpu=3000)
    await place(engine, await placements.take_epoch(engine, "default"))
    await nodes.register(engine, an_agent(cpu=2000))
    assert await violations(database_url) == []
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    assert await violations(database_url) == []
    assert await used_cpu(engine) == 0


async def test_racing_finishes_release_once(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    await place(engine, await placements.take_epoch(engine, "default"))
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(ledger.finish(engine, session_id, DONE, actor="workflow"))
    assert await used_cpu(engine) == 0
    assert await violations(database_url) == []


async def test_the_past_is_not_rewritten(engine: AsyncEngine) -> None:
    await a_pending_session(engine, await a_user(engine))
    with pytest.raises(DBAPIError, match="not rewritten"):
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE transitions SET message = 'x'"))


async def test_who_holds_room_on_a_lost_node_is_found_again(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    await place(engine, await placements.take_epoch(engine, "default"))
    await nodes.mark_lost(engine, "n1")
    assert await nodes.stranded(engine) == [], "it has just been told"
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET status_changed = now() - interval '1 minute'"))
    assert await nodes.stranded(engine) == [(session_id, "n1")]
