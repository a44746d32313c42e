"""What a pass reads from a real PostgreSQL, and what its decisions leave there."""

from __future__ import annotations

import dataclasses

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger, nodes, placements
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.node import Device
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import (
    Decisions,
    Hold,
    Placement,
    Policy,
    Preemption,
    PreemptionMode,
    Scope,
    Snapshot,
    TenantState,
)
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
GPUS = [Device(f"gpu{n}", "cuda.device", numa=n // 2, model="A100") for n in range(4)]
HALVES = [Device("gpu0", "cuda.shares", 100), Device("gpu1", "cuda.shares", 100)]
DONE = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 0", "SUCCESS", 0)
FAILED = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 1", "FAILURE", 1)


async def run(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


async def a_pass(engine: AsyncEngine, policy: Policy | None = None) -> list[placements.Assigned]:
    """Reads, decides, commits, as the loop does."""
    epoch = await placements.take_epoch(engine, "default")
    policy = policy or Policy()
    decisions = decide(await read_snapshot(engine, "default"), policy)
    return await placements.commit_decisions(engine, "default", epoch, decisions, SEAL)


async def used_devices(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT device_id, used FROM devices WHERE used > 0"))
        return {row.device_id: row.used for row in rows}


def tenant(snapshot: Snapshot, scope: Scope, name: str) -> TenantState:
    return next(one for one in snapshot.tenants if (one.scope, one.name) == (scope, name))


async def test_devices_are_given_one_by_one_and_come_back_with_the_session(
    engine: AsyncEngine, database_url: str
) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine), slots={"cuda.device": 2})
    [assigned] = await a_pass(engine)
    [kernel] = assigned.kernels
    assert kernel.kernel_id == kernel_id
    assert sorted(kernel.devices.values()) == [1, 1]
    assert await used_devices(engine) == kernel.devices
    [running] = (await read_snapshot(engine, "default")).running
    assert running.kernels[0].devices == kernel.devices
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    assert await used_devices(engine) == {}
    assert await violations(database_url) == []


async def test_the_database_gives_no_device_twice_and_no_sick_one(engine: AsyncEngine) -> None:
    sick = dataclasses.replace(GPUS[1], healthy=False)
    await nodes.register(engine, an_agent(devices=[GPUS[0], sick]))
    user, epoch = await a_user(engine), await placements.take_epoch(engine, "default")
    for device, granted in (("gpu0", 1), ("gpu0", 0), ("gpu1", 0)):
        session_id, kernel_id = await a_pending_session(engine, user, slots={"cuda.device": 1})
        wish = Placement(session_id, 0, {kernel_id: "n1"}, {kernel_id: {device: 1}})
        made = await placements.commit_decisions(engine, "default", epoch, Decisions((wish,)), SEAL)
        assert len(made) == granted
    assert await used_devices(engine) == {"gpu0": 1}


async def test_shares_of_one_device_never_exceed_it(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=HALVES))
    user = await a_user(engine)
    for _ in range(3):
        await a_pending_session(engine, user, slots={"cuda.shares": 60})
    assert len(await a_pass(engine)) == 2, "1.2 of 2 devices are free, but 0.4 on each"
    assert await used_devices(engine) == {"gpu0": 60, "gpu1": 60}
    assert await violations(database_url) == []


async def test_a_device_that_a_node_has_no_more_takes_nothing_new(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    await nodes.register(engine, an_agent(devices=GPUS[:1]))
    snapshot = await read_snapshot(engine, "default")
    assert [device.device_id for device in snapshot.nodes[0].devices if device.healthy] == ["gpu0"]


async def test_a_gang_is_placed_whole_with_its_names(engine: AsyncEngine, database_url: str) -> None:
    for agent_id in ("n1", "n2"):
        await nodes.register(engine, an_agent(agent_id, cpu=2000))
    session_id, _ = await a_pending_session(engine, await a_user(engine), kernels=4, cluster_mode="multi-node")
    [assigned] = await a_pass(engine)
    assert [kernel.hostname for kernel in assigned.kernels] == ["main1", "sub1", "sub2", "sub3"]
    assert [kernel.command for kernel in assigned.kernels[1:]] == [["tail", "-f", "/dev/null"]] * 3
    assert sorted(kernel.agent_id for kernel in assigned.kernels) == ["n1", "n1", "n2", "n2"]
    lost = Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE")
    await ledger.finish(engine, session_id, lost, actor="workflow", fenced=["n2"])
    snapshot = await read_snapshot(engine, "default")
    assert {node.agent_id: node.used["cpu"] for node in snapshot.nodes} == {"n1": 0, "n2": 2000}
    assert await violations(database_url) == []


async def test_a_session_waits_for_those_it_depends_on(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    user = await a_user(engine)
    first, _ = await a_pending_session(engine, user, name="first")
    second, _ = await a_pending_session(engine, user, after=first)
    whatever, _ = await a_pending_session(engine, user, after=first, on_dependency_failure="run")
    assert [str(one.row["id"]) for one in await a_pass(engine)] == [first]
    assert {one.session_id: one.unmet for one in (await read_snapshot(engine, "default")).waiting} == {
        second: ("first",),
        whatever: ("first",),
    }
    await ledger.finish(engine, first, FAILED, actor="workflow")
    [(row, failed)] = await placements.with_failed_dependencies(engine, "default")
    assert (str(row["id"]), failed) == (second, "first")
    assert [str(one.row["id"]) for one in await a_pass(engine)] == [whatever]


async def test_a_met_dependency_lets_go(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    user = await a_user(engine)
    first, _ = await a_pending_session(engine, user)
    second, _ = await a_pending_session(engine, user, after=first)
    await a_pass(engine)
    await ledger.finish(engine, first, DONE, actor="workflow")
    assert [str(one.row["id"]) for one in await a_pass(engine)] == [second]


async def test_limits_are_counted_over_what_is_held_in_the_whole_cluster(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    await run(
        engine,
        "INSERT INTO limits (scope, name, max_sessions) VALUES ('user', 'ada@example.org', 2),"
        " ('project', 'default/default', 9)",
    )
    user = await a_user(engine)
    for _ in range(3):
        await a_pending_session(engine, user)
    assert len(await a_pass(engine)) == 2
    snapshot = await read_snapshot(engine, "default")
    ada = tenant(snapshot, Scope.USER, "ada@example.org")
    assert (ada.max_sessions, ada.sessions, ada.held["cpu"]) == (2, 2, 2000)
    assert tenant(snapshot, Scope.PROJECT, "default/default").sessions == 2
    assert await a_pass(engine) == []


async def test_past_use_halves_with_each_half_life(engine: AsyncEngine) -> None:
    """1000 millicores held for one hour that ended one half-life (one hour) ago, by hand:

    ∫ 1000 · 2^(−a/h) da for ages a from h to 2h = 1000 · h/ln 2 · (1/2 − 1/4) = 1000 · 3600 / ln 2 / 4.
    """
    await nodes.register(engine, an_agent())
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    await a_pass(engine)
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    await run(engine, "ALTER TABLE allocations DISABLE TRIGGER ALL")
    await run(
        engine,
        "UPDATE allocations SET allocated_at = now() - interval '2 hours', released_at = now() - interval '1 hour'",
    )
    await a_pending_session(engine, await a_user(engine, "bob@example.org"))
    snapshot = await read_snapshot(engine, "default", half_life_s=3600.0)
    expected = 1000 * 3600 / 0.6931471805599453 / 4
    for scope, name in (
        (Scope.USER, "ada@example.org@default/default"),
        (Scope.PROJECT, "default/default"),
        (Scope.DOMAIN, "default"),
    ):
        assert tenant(snapshot, scope, name).decayed["cpu"] == pytest.approx(expected, rel=1e-3)


async def test_room_that_others_made_is_kept_until_its_session_starts(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(cpu=1000))
    user = await a_user(engine)
    low, _ = await a_pending_session(engine, user, name="low-one")
    await a_pass(engine)
    await run(engine, "UPDATE sessions SET status = 'RUNNING' WHERE id = :id", id=low)
    await run(engine, "UPDATE allocations SET allocated_at = now() - interval '1 hour'")
    _, kernel = await a_pending_session(engine, user, name="high-one", job_priority=5)
    policy = Policy(preemption=PreemptionMode.REQUEUE)
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), policy)
    [preemption] = decisions.preemptions
    assert preemption.victims == (low,)
    await placements.commit_decisions(engine, "default", epoch, decisions, SEAL, requeue_victims=True)
    [victim] = await placements.victims(engine, "default")
    assert (victim.session_id, victim.for_name, victim.requeue) == (low, "high-one", True)
    await ledger.requeue(engine, low, 0, reason=Reason.PREEMPTED, message="")
    assert await placements.victims(engine, "default") == []
    [assigned] = await a_pass(engine, policy)
    assert assigned.kernels[0].kernel_id == kernel
    assert (await read_snapshot(engine, "default")).holds == ()


async def test_a_hold_ends_with_its_time(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id, kernel = await a_pending_session(engine, await a_user(engine), cpu=64_000)
    epoch = await placements.take_epoch(engine, "default")
    over = Decisions(preemptions=(Preemption((), Hold(session_id, {kernel: "n1"}, 1.0)),))
    await placements.commit_decisions(engine, "default", epoch, over, SEAL)
    assert (await read_snapshot(engine, "default")).holds == ()


async def test_who_was_passed_is_counted(engine: AsyncEngine) -> None:
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    epoch = await placements.take_epoch(engine, "default")
    for _ in range(2):
        await placements.commit_decisions(engine, "default", epoch, Decisions(skipped=(session_id,)), SEAL)
    [waiting] = (await read_snapshot(engine, "default")).waiting
    assert waiting.skips == 2


async def test_released_devices_are_not_released_again(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id, _ = await a_pending_session(engine, await a_user(engine), slots={"cuda.device": 1})
    await a_pass(engine)
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    with pytest.raises(DBAPIError, match="released already"):
        await run(engine, "UPDATE device_allocations SET released_at = now()")


async def test_the_node_that_has_the_image_is_taken(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent("n1"))
    await nodes.register(engine, an_agent("n2", images=["img:latest", "other:1"]))
    await a_pending_session(engine, await a_user(engine))
    [assigned] = await a_pass(engine)
    assert assigned.kernels[0].agent_id == "n2"


async def test_images_that_a_node_reports_later_count_too(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent("n1"))
    await nodes.register(engine, an_agent("n2"))
    await nodes.note_images(engine, "n2", ["img:latest"])
    await a_pending_session(engine, await a_user(engine))
    [assigned] = await a_pass(engine)
    assert assigned.kernels[0].agent_id == "n2"
