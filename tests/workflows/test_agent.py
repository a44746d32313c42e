"""The story of a node, on the time-skipping server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from temporalio import activity
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.service import RPCError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from moorage.contracts import names
from moorage.contracts.activities import (
    AgentActivities,
    AgentReport,
    Presence,
    PresenceActivities,
    Verdict,
    registered,
)
from moorage.domain.ids import new_id
from moorage.domain.node import AgentInfo
from tests.support.builders import an_agent
from tests.workflows.conftest import a_server
from workflows import options
from workflows.agent import AgentWorkflow

# Time is not skipped while an activity runs.
SILENT_S, CALLS_AGAIN_S = 1.0, 4.0
LONG_AGO, IN_TIME = 0.0, 4e9  # what the node's clock says, seconds since 1970


@pytest.fixture
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with a_server() as environment:
        yield environment


@pytest.fixture(autouse=True)
def soon_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "PRESENCE_HEARTBEAT", timedelta(seconds=SILENT_S))
    monkeypatch.setattr(options, "CALLS_AGAIN", timedelta(seconds=CALLS_AGAIN_S))


@dataclass
class Control(AgentActivities):
    """What the rows of the node went through."""

    happened: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    @activity.defn
    async def register_agent(self, info: AgentInfo) -> None:
        self.happened.put_nowait("alive")

    @activity.defn
    async def reconcile_agent(self, report: AgentReport) -> Verdict:
        return Verdict()

    @activity.defn
    async def mark_agent_lost(self, agent_id: str) -> int:
        self.happened.put_nowait("lost")
        return 0

    @activity.defn
    async def drain_agent(self, agent_id: str) -> int:
        return 0


class Node(PresenceActivities):
    """Its clock says `at`. It beats once and is silent then, as if what it sends came nowhere."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.holds = asyncio.Event()

    @activity.defn
    async def hold_presence(self, presence: Presence) -> None:
        activity.heartbeat({"containers": 0, "load": 0.0, "at": self.at})
        self.holds.set()
        await asyncio.Event().wait()


@dataclass
class Story:
    handle: WorkflowHandle[AgentWorkflow, None]
    control: Control
    node: Node
    info: AgentInfo

    async def register(self) -> None:
        await self.handle.signal(AgentWorkflow.register, self.info)
        assert await self.control.happened.get() == "alive"
        await self.node.holds.wait()


@asynccontextmanager
async def a_node(temporal: WorkflowEnvironment, at: float) -> AsyncIterator[Story]:
    """One that has registered."""
    info = an_agent(f"n-{new_id()[:8]}")
    control, node, client = Control(), Node(at), temporal.client
    workers = [
        Worker(
            client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[AgentWorkflow],
            activities=registered(AgentActivities, control),
            workflow_runner=UnsandboxedWorkflowRunner(),  # it must see the shorter time
        ),
        Worker(
            client,
            task_queue=names.agent_queue(info.agent_id),
            activities=registered(PresenceActivities, node),
        ),
    ]
    async with workers[0], workers[1], asyncio.timeout(60):
        handle = await client.start_workflow(
            AgentWorkflow.run,
            args=[info.agent_id],
            id=names.agent_workflow(info.agent_id),
            task_queue=names.CONTROL_QUEUE,
        )
        story = Story(handle, control, node, info)
        await story.register()
        yield story
        with suppress(RPCError):  # it is over
            await handle.terminate()


async def test_a_silent_node_is_lost_at_once_when_its_silence_was_noticed_in_time(
    temporal: WorkflowEnvironment,
) -> None:
    async with a_node(temporal, IN_TIME) as story:
        before = await temporal.get_current_time()
        assert await story.control.happened.get() == "lost"
        assert await temporal.get_current_time() - before < timedelta(seconds=SILENT_S + CALLS_AGAIN_S)


async def test_a_node_whose_silence_was_noticed_late_is_lost_only_if_it_does_not_call_again(
    temporal: WorkflowEnvironment,
) -> None:
    async with a_node(temporal, LONG_AGO) as story:
        await temporal.sleep(SILENT_S + 0.5)  # its presence has ended
        assert story.control.happened.empty()
        story.node.holds.clear()
        await story.register()  # as it does when it hears of that
        assert story.control.happened.empty()
        assert await story.control.happened.get() == "lost"


async def test_the_story_of_a_lost_node_ends_when_it_is_retired_and_of_a_living_one_it_does_not(
    temporal: WorkflowEnvironment,
) -> None:
    async with a_node(temporal, IN_TIME) as story:
        await story.handle.signal(AgentWorkflow.retire)
        assert await story.control.happened.get() == "lost"
        await temporal.sleep(1)
        described = await story.handle.describe()
        assert described.status == WorkflowExecutionStatus.RUNNING, "what was asked while it lived is not kept"
        await story.handle.signal(AgentWorkflow.retire)
        await story.handle.result()
