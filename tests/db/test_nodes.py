"""What the sessions of a node are told, on a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.testing import ActivityEnvironment

from activities.agents import FENCE_MARGIN_S, LedgerAgents
from moorage.contracts.activities import AgentReport, NodeLost
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelExit
from tests.db.test_invariants import a_placed_session


class Told:
    """The sessions' workflows."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, object]] = []

    async def tell(self, session_id: str, signal: str, message: object) -> bool:
        self.said.append((session_id, signal, message))
        return True


async def test_what_its_node_stopped_cut_off_is_told_as_a_lost_node_and_an_end_of_its_own_as_that(
    engine: AsyncEngine,
) -> None:
    session_id, kernel_id = await a_placed_session(engine)
    told = Told()
    ended = ContainerSeen(session_id, kernel_id, 0, "c1", "exited", 137)
    for fenced in (True, False):
        report = AgentReport("n1", "i1", [replace(ended, fenced=fenced)])
        assert (await LedgerAgents(engine, told).reconcile_agent(report)).destroy == []
    [(_, first, lost), (_, second, exit)] = told.said
    assert (first, second) == ("node_lost", "kernel_exited")
    assert isinstance(lost, NodeLost)
    assert (lost.agent_id, lost.fenced_at) == ("n1", 0.0), "it was stopped already: nothing is waited for"
    assert isinstance(exit, KernelExit)
    assert exit.exit_code == 137


async def test_the_fence_of_a_lost_node_is_told_by_temporals_clock(engine: AsyncEngine) -> None:
    """A session waits by that clock; a worker whose own is behind would let it start elsewhere too early."""
    session_id, _ = await a_placed_session(engine)
    told, environment = Told(), ActivityEnvironment()
    environment.info = replace(environment.info, scheduled_time=datetime(2031, 1, 1, tzinfo=UTC))
    assert await environment.run(LedgerAgents(engine, told).mark_agent_lost, "n1") == 1
    [(to, _, lost)] = told.said
    assert isinstance(lost, NodeLost)
    assert (to, lost.fenced_at) == (session_id, datetime(2031, 1, 1, tzinfo=UTC).timestamp() + FENCE_MARGIN_S)
