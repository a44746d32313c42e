"""A session that runs, in the ledger: lines of its timeline, a longer life, a new start in its place."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage import ssh_keys
from moorage.db import devices, ledger, nodes, placements, running, sessions
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.node import Device
from moorage.domain.session import Ending, KernelSpec, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
GPU = Device("gpu0", "cuda.device")
DONE = Ending(SessionStatus.TERMINATED, Reason.USER_REQUESTED)


async def a_running(engine: AsyncEngine, *, kernels: int = 1, **wish: Any) -> str:
    await nodes.register(engine, an_agent(devices=[GPU]))
    session_id, _ = await a_pending_session(engine, await a_user(engine), kernels=kernels, **wish)
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    [assigned] = await placements.commit_decisions(engine, "default", epoch, decisions, SEAL)
    containers = {kernel.kernel_id: "c" for kernel in assigned.kernels}
    assert await ledger.record_started(engine, session_id, 0, containers, "on n1")
    return session_id


async def shown(engine: AsyncEngine, session_id: str) -> dict[str, Any]:
    row = await sessions.by_id(engine, session_id)
    assert row is not None
    return dict(row)


async def noted(engine: AsyncEngine, session_id: str, attempt: int = 0, at: float = 1.0) -> bool:
    return await running.note(
        engine, session_id, attempt, reason=Reason.IDLE_WARNING, message="idle", actor="workflow", at=at
    )


async def prolonged(engine: AsyncEngine, session_id: str, attempt: int = 0) -> bool:
    return await running.prolong(
        engine, session_id, attempt, lifetime_s=60, kept_until=2e9, message="longer", actor="ada", at=1.0
    )


async def placed_again(engine: AsyncEngine, session_id: str, attempt: int = 0) -> tuple[int, list[KernelSpec]]:
    return await running.place_again(engine, session_id, attempt, SEAL)


async def test_a_line_stands_once_however_often_it_is_told(engine: AsyncEngine, database_url: str) -> None:
    session_id = await a_running(engine)
    assert [await noted(engine, session_id) for _ in range(3)] == [True, True, True]
    assert await noted(engine, session_id, at=2.0)
    lines = [one for one in await sessions.events(engine, session_id) if one["reason"] == Reason.IDLE_WARNING]
    assert [(one["from_status"], one["to_status"], one["message"]) for one in lines] == 2 * [
        ("RUNNING", "RUNNING", "idle")
    ]
    assert await violations(database_url) == []


async def test_a_longer_life_is_told_once_and_kept(engine: AsyncEngine, database_url: str) -> None:
    session_id = await a_running(engine)
    assert [await prolonged(engine, session_id) for _ in range(2)] == [True, True]
    assert (await shown(engine, session_id))["lifetime_s"] == 60
    assert [one["reason"] for one in await sessions.events(engine, session_id)].count("extended") == 1
    assert await violations(database_url) == []


async def test_an_attempt_that_is_over_is_neither_told_nor_prolonged_nor_placed(engine: AsyncEngine) -> None:
    session_id = await a_running(engine)
    before = await shown(engine, session_id)
    assert not await noted(engine, session_id, attempt=1)
    assert not await prolonged(engine, session_id, attempt=1)
    assert (await placed_again(engine, session_id, attempt=1))[1] == []
    assert await shown(engine, session_id) == before
    await ledger.finish(engine, session_id, DONE, actor="ada")
    ended = await shown(engine, session_id)
    assert not await noted(engine, session_id)
    assert not await prolonged(engine, session_id)
    assert (await placed_again(engine, session_id))[1] == []
    assert await shown(engine, session_id) == ended


async def test_the_next_attempt_holds_what_the_last_one_did_where_it_was(
    engine: AsyncEngine, database_url: str
) -> None:
    session_id = await a_running(engine, slots={"cuda.device": 1})
    assert await ledger.move(engine, session_id, 0, SessionStatus.RESTARTING)
    await devices.note_health(engine, "n1", [Device("gpu0", "cuda.device", healthy=False, reason="XID 79")])
    first, second = [await placed_again(engine, session_id) for _ in range(2)]
    assert first == second, "asked again it is the same"
    attempt, [kernel] = first
    assert (attempt, kernel.attempt, kernel.agent_id, kernel.devices) == (1, 1, "n1", {"gpu0": 1})
    assert (await shown(engine, session_id))["kernels"][0]["container"] is None
    assert await violations(database_url) == []
    assert await ledger.record_started(engine, session_id, 1, {kernel.kernel_id: "c2"}, "on n1")
    assert (await shown(engine, session_id))["status"] == "RUNNING"
    await ledger.finish(engine, session_id, DONE, actor="ada")
    assert await violations(database_url) == []


async def test_a_gang_keeps_its_network(engine: AsyncEngine, database_url: str) -> None:
    session_id = await a_running(engine, kernels=2, ssh_key=SEAL.seal(ssh_keys.made()), cluster_mode="multi-node")
    async with engine.connect() as connection:
        query = text("SELECT CAST(subnet AS text) FROM session_networks WHERE session_id = :id AND attempt = :attempt")
        before = (await connection.execute(query, {"id": session_id, "attempt": 0})).scalar_one()
    await ledger.move(engine, session_id, 0, SessionStatus.RESTARTING)
    await placed_again(engine, session_id)
    async with engine.connect() as connection:
        assert (await connection.execute(query, {"id": session_id, "attempt": 1})).scalar_one() == before
    assert await violations(database_url) == []


async def test_a_start_that_is_recorded_late_is_not_that_of_the_next_containers(engine: AsyncEngine) -> None:
    session_id = await a_running(engine)
    await ledger.move(engine, session_id, 0, SessionStatus.RESTARTING)
    kernels = {kernel.kernel_id: "c" for kernel in (await ledger.session_state(engine, session_id, SEAL))[2]}
    assert not await ledger.record_started(engine, session_id, 0, kernels, "on n1")
    assert (await shown(engine, session_id))["status"] == "RESTARTING"


@pytest.mark.parametrize("repetition", range(3))
async def test_an_end_at_the_same_moment_leaves_nothing_held(
    engine: AsyncEngine, database_url: str, repetition: int
) -> None:
    session_id = await a_running(engine, slots={"cuda.device": 1})
    await ledger.move(engine, session_id, 0, SessionStatus.RESTARTING)
    await asyncio.gather(placed_again(engine, session_id), ledger.finish(engine, session_id, DONE, actor="ada"))
    assert (await shown(engine, session_id))["status"] == "TERMINATED"
    async with engine.connect() as connection:
        held = text("SELECT (SELECT sum(used) FROM agent_slots) + (SELECT sum(used) FROM devices)")
        assert (await connection.execute(held)).scalar_one() == 0
    assert await violations(database_url) == []
