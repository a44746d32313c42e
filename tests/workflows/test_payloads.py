"""A session whose messages are encrypted as in operation, while keys change and things fail."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client, WorkflowHandle
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from moorage.contracts import names
from moorage.contracts.activities import (
    Assignment,
    Cancel,
    KernelActivities,
    SessionActivities,
    SessionInput,
    registered,
)
from moorage.contracts.shown import Shown
from moorage.domain.ids import new_id
from moorage.domain.session import KernelExit, KernelSpec
from moorage.temporal import data_converter, workflow_runner
from tests.workflows.world import FakeLedger, FakeNode, World
from workflows.session import SessionWorkflow

pytestmark = pytest.mark.asyncio(loop_scope="package")
OLD, NEW = "k1:" + "11" * 32, "k2:" + "22" * 32
SECRET = "hunter2-hunter2"


def with_keys(temporal: WorkflowEnvironment, keys: str) -> Client:
    return Client(temporal.client.service_client, data_converter=data_converter(keys))


def control(client: Client, queue: str, world: World) -> Worker:
    """One that forgets between two tasks, so that each of them reads the whole history."""
    return Worker(
        client,
        task_queue=queue,
        workflows=[SessionWorkflow],
        activities=registered(SessionActivities, FakeLedger(world)),
        workflow_runner=workflow_runner(),
        max_cached_workflows=0,
    )


def node(client: Client, agent: str, world: World) -> Worker:
    return Worker(client, task_queue=names.agent_queue(agent), activities=registered(KernelActivities, FakeNode(world)))


async def start(client: Client, session_id: str, queue: str) -> WorkflowHandle[SessionWorkflow, str]:
    return await client.start_workflow(
        SessionWorkflow.run,
        SessionInput(session_id, SECRET, "ada", "p", "default"),
        id=names.session_workflow(session_id),
        task_queue=queue,
        static_summary=Shown("a session"),
    )


async def kept(handle: WorkflowHandle[SessionWorkflow, str]) -> bytes:
    """All that Temporal has of it, as it has it."""
    events: AsyncIterator[object] = handle.fetch_history_events()
    return b"".join([event.SerializeToString() async for event in events])  # type: ignore[attr-defined]


async def test_a_life_begun_under_the_old_key_goes_on_under_a_new_first_one(temporal: WorkflowEnvironment) -> None:
    session_id, world = new_id(), World()
    queue, agent = f"control-{session_id}", f"n-{session_id[:8]}"
    old, new = with_keys(temporal, OLD), with_keys(temporal, f"{NEW},{OLD}")
    spec = KernelSpec(session_id, new_id(), 0, agent, "img", ["true"], {"TOKEN": SECRET}, {"cpu": 1000})
    async with control(old, queue, world), node(old, agent, world):
        handle = await start(old, session_id, queue)
        await handle.signal("assigned", Assignment(0, [spec]))
        await world.running.wait()
    async with control(new, queue, world), node(new, agent, world):
        later = new.get_workflow_handle_for(SessionWorkflow.run, handle.id)
        assert await later.query("snapshot") == "RUNNING"
        await later.signal("kernel_exited", KernelExit(spec.kernel_id, 0, 0))
        assert await later.result() == "TERMINATED"
    history = await kept(handle)
    assert SECRET.encode() not in history
    assert b"k1:" in history
    assert b"k2:" in history
    assert b"create the container on" in history


async def test_what_a_client_of_an_older_release_says_in_clear_is_understood(temporal: WorkflowEnvironment) -> None:
    session_id, world = new_id(), World()
    queue = f"control-{session_id}"
    ours = with_keys(temporal, OLD)
    async with control(ours, queue, world):
        handle = await start(ours, session_id, queue)
        clear = temporal.client.get_workflow_handle(handle.id)
        await clear.signal("cancel", Cancel("user-requested", "user:ada"))
        assert await handle.result() == "CANCELLED"


async def test_a_refusals_words_are_encrypted_and_still_end_the_session_rightly(temporal: WorkflowEnvironment) -> None:
    session_id, world = new_id(), World(image_missing=True)
    queue, agent = f"control-{session_id}", f"n-{session_id[:8]}"
    client = with_keys(temporal, OLD)
    spec = KernelSpec(session_id, new_id(), 0, agent, "img", ["true"], {}, {"cpu": 1000})
    async with control(client, queue, world), node(client, agent, world):
        handle = await start(client, session_id, queue)
        await handle.signal("assigned", Assignment(0, [spec]))
        assert await handle.result() == "ERROR"
    assert world.ending is not None
    ending = world.ending.ending
    assert (ending.reason, ending.message) == ("image-pull-failed", "pull access denied")
    history = await kept(handle)
    assert b"pull access denied" not in history
    assert b"no such image" not in history
    assert b"image-pull-failed" in history
