"""What kernels used is kept once, with the step that ends their attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger, sessions
from moorage.db.usage import kept
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.domain.usage import DeviceUsage, KernelUsage, summary
from tests.support.builders import a_pending_session, a_user

DONE = Ending(SessionStatus.CANCELLED, Reason.USER_REQUESTED)


async def _kept(engine: AsyncEngine, session_id: str) -> list[KernelUsage]:
    row: Mapping[str, Any] | None = await sessions.by_id(engine, session_id)
    assert row is not None
    return kept(row["usage"])


async def _finished(engine: AsyncEngine, session_id: str, usage: Sequence[KernelUsage]) -> str:
    return await ledger.finish(engine, session_id, DONE, actor="workflow", usage=usage)


async def test_what_was_kept_is_read_as_it_was_and_unknown_stays_unknown(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    usage = KernelUsage(kernel_id, 0, 12.5, cpu_ms=2**40, mem_avg=7, devices=[DeviceUsage("gpu", 1.5, None, 3)])
    await _finished(engine, session_id, [usage])
    assert await _kept(engine, session_id) == [usage]


async def test_an_end_that_is_recorded_again_keeps_the_first_usage(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    for seconds in (1.0, 2.0):
        await _finished(engine, session_id, [KernelUsage(kernel_id, 0, seconds)])
    assert [one.seconds for one in await _kept(engine, session_id)] == [1.0]


async def test_each_attempt_is_kept(engine: AsyncEngine) -> None:
    session_id, kernel_id = await a_pending_session(engine, await a_user(engine))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE sessions SET status = 'SCHEDULED' WHERE id = :id"), {"id": session_id})
    for _ in range(2):
        await ledger.requeue(
            engine, session_id, 0, reason="preempted", message="", usage=[KernelUsage(kernel_id, 0, 60.0, cpu_ms=600)]
        )
    await _finished(engine, session_id, [KernelUsage(kernel_id, 1, 40.0, cpu_ms=400)])
    found = await _kept(engine, session_id)
    assert [(one.attempt, one.cpu_ms) for one in found] == [(0, 600), (1, 400)]


async def test_what_is_said_of_another_sessions_kernel_is_not_kept(engine: AsyncEngine) -> None:
    user = await a_user(engine)
    session_id, _ = await a_pending_session(engine, user)
    other_id, other_kernel = await a_pending_session(engine, user)
    await _finished(engine, session_id, [KernelUsage(other_kernel, 0, 1.0)])
    assert (await _kept(engine, session_id), await _kept(engine, other_id)) == ([], [])


def test_a_gang_is_summed_up_as_if_all_ran_all_the_time() -> None:
    lives = [
        KernelUsage("a", 0, 60, cpu_ms=60_000, cpu_peak=2000, mem_avg=100, mem_used_peak=150, net_rx=1),
        KernelUsage("a", 1, 60, cpu_ms=0, cpu_peak=1000, mem_avg=100, mem_used_peak=120, net_rx=2),
        KernelUsage("b", 1, 120, cpu_ms=60_000, cpu_peak=500, mem_avg=300, mem_used_peak=400),
    ]
    found = summary(lives, {"cpu": 1000, "mem": 1000})
    assert found is not None
    assert (found["kernels"], found["attempts"], found["seconds"]) == (2, 2, 240)
    assert found["cpu"] == {"asked": 2000, "average": 1000, "peak": 2500, "total_ms": 120_000}
    assert (found["mem"]["average"], found["mem"]["peak_used"], found["mem"]["peak"]) == (400, 550, None)
    assert (found["net"]["rx_bytes"], found["waste"]) == (None, [])


def test_of_nothing_there_is_no_summary() -> None:
    assert summary([], {"cpu": 1000}) is None
