"""What the database says of workflows and containers that were found, on a real PostgreSQL."""

from __future__ import annotations

import uuid

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger, nodes, placements
from moorage.db.invariants import against_containers, against_workflows, docker_agents
from moorage.db.snapshots import read_snapshot
from moorage.domain.node import ContainerSeen
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user, an_agent

DONE = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 0", "SUCCESS", 0)
LOST = Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE")


async def a_placed_session(engine: AsyncEngine, email: str = "ada@example.org") -> tuple[str, str]:
    await nodes.register(engine, an_agent("n1"))
    made = await a_pending_session(engine, await a_user(engine, email))
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    await placements.commit_decisions(engine, "default", epoch, decisions, Seal(KEYS))
    return made


async def make_older(engine: AsyncEngine, session_id: str) -> None:
    """By a minute. The guard of ended rows is off for this: it keeps programs from it, not the owner of the tables."""
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        times = ("created_at", "status_changed", "terminated_at")
        changes = ", ".join(f"{name} = {name} - interval '1 minute'" for name in times)
        await connection.execute(text(f"UPDATE sessions SET {changes} WHERE id = :id"), {"id": session_id})


def a_container(session_id: str, kernel_id: str, attempt: int = 0) -> ContainerSeen:
    return ContainerSeen(session_id, kernel_id, attempt, "c0ffee", "running")


async def test_a_live_row_without_a_workflow_is_told_when_it_is_old_enough_to_have_one(
    engine: AsyncEngine, database_url: str
) -> None:
    session_id, _ = await a_pending_session(engine, await a_user(engine))
    assert await against_workflows(database_url, []) == []
    await make_older(engine, session_id)
    [told] = await against_workflows(database_url, [])
    assert f"session {session_id} is PENDING and no workflow of it runs" in told
    assert await against_workflows(database_url, [session_id]) == []


async def test_a_workflow_whose_row_is_over_is_told_when_it_had_time_to_close(
    engine: AsyncEngine, database_url: str
) -> None:
    session_id, _ = await a_placed_session(engine)
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    assert await against_workflows(database_url, [session_id]) == []
    await make_older(engine, session_id)
    [told] = await against_workflows(database_url, [session_id])
    assert f"a workflow of session {session_id} runs, which is TERMINATED since" in told
    assert await against_workflows(database_url, []) == []


async def test_a_workflow_without_a_row_is_told_whatever_its_name(database_url: str) -> None:
    told = await against_workflows(database_url, [str(uuid.uuid4()), "by-hand"])
    assert len([one for one in told if "which is not in the database" in one]) == 2


async def test_the_container_of_a_live_session_is_expected_in_its_attempt_and_on_its_node_only(
    engine: AsyncEngine, database_url: str
) -> None:
    session_id, kernel_id = await a_placed_session(engine)
    await make_older(engine, session_id)
    assert await against_containers(database_url, {"n1": [a_container(session_id, kernel_id)]}) == []
    [older] = await against_containers(database_url, {"n1": [a_container(session_id, kernel_id, 7)]})
    assert "attempt 7, is there; the session is SCHEDULED, attempt 0 on n1" in older
    [elsewhere] = await against_containers(database_url, {"n2": [a_container(session_id, kernel_id)]})
    assert "is there" in elsewhere


async def test_the_container_of_an_ended_session_is_told_when_it_had_time_to_go(
    engine: AsyncEngine, database_url: str
) -> None:
    session_id, kernel_id = await a_placed_session(engine)
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    assert await against_containers(database_url, {"n1": [a_container(session_id, kernel_id)]}) == []
    await make_older(engine, session_id)
    [told] = await against_containers(database_url, {"n1": [a_container(session_id, kernel_id)]})
    assert "the session is TERMINATED" in told


async def test_what_is_fenced_on_a_lost_node_may_still_be_there(engine: AsyncEngine, database_url: str) -> None:
    session_id, kernel_id = await a_placed_session(engine)
    await nodes.mark_lost(engine, "n1")
    await ledger.finish(engine, session_id, LOST, actor="workflow", fenced=["n1"])
    await make_older(engine, session_id)
    assert await against_containers(database_url, {"n1": [a_container(session_id, kernel_id)]}) == []
    await nodes.release_fenced(engine, "n1", [])
    assert len(await against_containers(database_url, {"n1": [a_container(session_id, kernel_id)]})) == 1


async def test_a_container_made_by_hand_is_told_whatever_its_labels(database_url: str) -> None:
    told = await against_containers(database_url, {"n1": [a_container("by", "hand", -1)]})
    assert "container c0ffee of session by, attempt -1, is there; there is no such kernel" in told[0]


async def test_only_docker_nodes_of_the_host_have_containers_to_look_at(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent("n1"))
    assert await docker_agents(database_url, "host") == []
