"""What nodes found of a container's health, and what a failed one said last."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger, running, sessions
from moorage.domain.health import Health, HealthCheck, Probe
from moorage.domain.session import Ending, Reason, SessionResult, SessionStatus
from moorage.seal import Seal
from tests.support.builders import KEYS, a_pending_session, a_user

CHECK = HealthCheck(live=Probe(port=8080))
CRASHED = Ending(SessionStatus.ERROR, Reason.CRASH_LOOP, "exit code 1", SessionResult.FAILURE, 1)


async def a_running_session(engine: AsyncEngine, *, kernels: int = 1) -> tuple[str, str]:
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine), kernels=kernels)
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE sessions SET health = CAST(:check AS jsonb) WHERE id = :id"),
            {"id": session_id, "check": _json(CHECK)},
        )
        for status in ("SCHEDULED", "CREATING", "RUNNING"):
            await connection.execute(
                text("UPDATE sessions SET status = :status WHERE id = :id"), {"id": session_id, "status": status}
            )
    return session_id, kernel_id


def _json(check: HealthCheck) -> str:
    import json

    return json.dumps(asdict(check))


async def seen(engine: AsyncEngine, session_id: str) -> dict[str, Any]:
    row = await sessions.by_id(engine, session_id)
    assert row is not None
    return dict(row)


async def tell(engine: AsyncEngine, session_id: str, kernel_id: str, health: Health, words: str, at: float) -> bool:
    return await running.note(
        engine,
        session_id,
        0,
        reason=Reason.HEALTH,
        message=words,
        actor="workflow",
        at=at,
        kernel_id=kernel_id,
        health=health,
    )


async def lines(engine: AsyncEngine, session_id: str) -> list[str]:
    return [event["message"] for event in await sessions.events(engine, session_id) if event["reason"] == "health"]


async def test_a_checked_session_is_starting_until_something_is_heard_of_it(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_running_session(engine, kernels=2)
    row = await seen(engine, session_id)
    assert row["health_status"] == "starting"
    assert [kernel["health"] for kernel in row["kernels"]] == ["starting", ""]
    assert await tell(engine, session_id, kernel_id, Health.HEALTHY, "ready after 2.0 s", 1.0)
    row = await seen(engine, session_id)
    assert (row["health_status"], row["kernels"][0]["health_message"]) == ("healthy", "ready after 2.0 s")


async def test_what_is_said_again_is_no_other_line(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_running_session(engine)
    for at, health in ((1.0, Health.HEALTHY), (2.0, Health.HEALTHY), (3.0, Health.UNHEALTHY), (3.0, Health.UNHEALTHY)):
        assert await tell(engine, session_id, kernel_id, health, "as found", at)
    assert await lines(engine, session_id) == ["healthy: as found", "unhealthy: as found"]


async def test_the_health_of_an_attempt_that_is_over_is_not_kept(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_running_session(engine)
    await tell(engine, session_id, kernel_id, Health.UNHEALTHY, "gone", 1.0)
    await ledger.requeue(engine, session_id, 0, reason="node-lost", message="")
    row = await seen(engine, session_id)
    assert (row["health_status"], row["kernels"][0]["health_message"]) == ("", "")
    assert not await tell(engine, session_id, kernel_id, Health.HEALTHY, "late", 2.0)


async def test_only_the_main_kernel_of_a_gang_is_checked(engine: AsyncEngine) -> None:
    session_id, _ = await a_running_session(engine, kernels=3)
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO agents (id, resource_group, address, status, architecture, runtime, hostname, version,"
                 " incarnation) VALUES ('n1', 'default', '', 'ALIVE', 'x86_64', 'simulated', 'h', '0', 'i')")
        )  # fmt: skip
        await connection.execute(text("UPDATE kernels SET agent_id = 'n1' WHERE session_id = :id"), {"id": session_id})
    _, _, specs = await ledger.session_state(engine, session_id, Seal(KEYS))
    assert [spec.health for spec in specs] == [CHECK, None, None]


async def test_the_last_lines_are_kept_with_the_end(engine: AsyncEngine) -> None:
    session_id, _ = await a_running_session(engine)
    await ledger.finish(engine, session_id, CRASHED, actor="workflow", last_lines="out of\nideas")
    await ledger.finish(engine, session_id, CRASHED, actor="workflow", last_lines="another end")
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT last_lines FROM sessions WHERE id = :id"), {"id": session_id})
    assert found.scalar_one() == "out of\nideas"
