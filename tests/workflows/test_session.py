"""The story of a session with a fake node and a fake ledger: each step fails once before and once after its effect."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio import activity
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from moorage.contracts import activities as contract
from moorage.contracts import names
from moorage.contracts.activities import (
    Assignment,
    Cancel,
    CreatedKernel,
    Destroy,
    Destroyed,
    Finish,
    KernelActivities,
    Move,
    PullImage,
    Requeue,
    SessionActivities,
    SessionInput,
    SessionState,
    Started,
    registered,
)
from moorage.domain.ids import new_id
from moorage.domain.session import KernelExit, KernelSpec
from moorage.temporal import workflow_runner
from workflows.session import SessionWorkflow

STEPS = ["create_kernel", "destroy_kernel", "move_session", "record_started", "finish_session"]


@dataclass
class World:
    """What there is: containers, the row, what it holds. `fails` names a step and when it fails, once."""

    fails: tuple[str, str] = ("", "")
    containers: set[tuple[str, int]] = field(default_factory=set)
    ever_made: list[tuple[str, int]] = field(default_factory=list)
    held: bool = True
    ending: Finish | None = None
    releases: int = 0
    image_missing: bool = False
    refuses: int = 0
    requeues: int = 0
    slow_create: bool = False  # a create ends only after a destroy has come
    destroyed: set[tuple[str, int]] = field(default_factory=set)
    creating: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def trip(self, step: str, when: str) -> None:
        if self.fails == (step, when):
            self.fails = ("", "")
            raise RuntimeError(f"injected {when} {step}")


class FakeNode(KernelActivities):
    def __init__(self, world: World) -> None:
        self._world = world

    @activity.defn
    async def create_kernel(self, spec: KernelSpec) -> CreatedKernel:
        self._world.trip("create_kernel", "before")
        if self._world.image_missing:
            raise ApplicationError("no such image", type=contract.IMAGE_MISSING, non_retryable=True)
        if self._world.refuses:
            self._world.refuses -= 1
            raise ApplicationError("refused", type=contract.CREATE_REFUSED, non_retryable=True)
        key = (spec.kernel_id, spec.attempt)
        self._world.creating.set()
        if self._world.slow_create:
            await self._world.stopping.wait()
        if key in self._world.destroyed:
            raise ApplicationError("stopped before", type=contract.KERNEL_STOPPED, non_retryable=True)
        if key not in self._world.containers:
            self._world.containers.add(key)
            self._world.ever_made.append(key)
        self._world.trip("create_kernel", "after")
        return CreatedKernel(spec.kernel_id, spec.attempt, "c1")

    @activity.defn
    async def pull_image(self, order: PullImage) -> None:
        raise ApplicationError("pull access denied", type=contract.IMAGE_PULL_FAILED, non_retryable=True)

    @activity.defn
    async def destroy_kernel(self, order: Destroy) -> Destroyed:
        self._world.stopping.set()
        self._world.trip("destroy_kernel", "before")
        self._world.destroyed.add((order.kernel_id, order.attempt))
        self._world.containers = {key for key in self._world.containers if key[0] != order.kernel_id}
        self._world.trip("destroy_kernel", "after")
        return Destroyed(order.kernel_id, order.attempt, True)


class FakeLedger(SessionActivities):
    def __init__(self, world: World) -> None:
        self._world = world

    @activity.defn
    async def move_session(self, move: Move) -> bool:
        self._world.trip("move_session", "before")
        self._world.trip("move_session", "after")
        return True

    @activity.defn
    async def record_started(self, started: Started) -> bool:
        self._world.trip("record_started", "before")
        self._world.running.set()
        self._world.trip("record_started", "after")
        return True

    @activity.defn
    async def requeue_session(self, requeue: Requeue) -> int:
        self._world.requeues += 1
        return requeue.attempt + 1

    @activity.defn
    async def finish_session(self, finish: Finish) -> str:
        self._world.trip("finish_session", "before")
        if self._world.ending is None:
            self._world.ending = finish
            self._world.releases += self._world.held
            self._world.held = False
        self._world.trip("finish_session", "after")
        return self._world.ending.ending.status

    @activity.defn
    async def session_state(self, session_id: str) -> SessionState:
        return SessionState("RUNNING", 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    server = str(Path(sys.executable).parent / "temporal-test-server")
    async with await WorkflowEnvironment.start_time_skipping(test_server_existing_path=server) as environment:
        await environment.client.operator_service.add_search_attributes(_search_attributes())
        yield environment


def _search_attributes() -> AddSearchAttributesRequest:
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    return AddSearchAttributesRequest(search_attributes={key.name: keyword for key in names.SEARCH_ATTRIBUTES})


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def live(
    temporal: WorkflowEnvironment,
    world: World,
    *signals: tuple[str, object],
    after: asyncio.Event | None = None,
    max_attempts: int = 3,
) -> str:
    """Runs a whole life: assigned at once, then (`after` that) the signals; a number is the exit code of its kernel."""
    session_id, agent_id = new_id(), f"n-{new_id()[:8]}"
    kernel_id = f"k-{session_id}"
    client, kernel = temporal.client, registered(KernelActivities, FakeNode(world))
    async with (
        Worker(
            client,
            task_queue=names.CONTROL_QUEUE,
            workflows=[SessionWorkflow],
            activities=registered(SessionActivities, FakeLedger(world)),
            workflow_runner=workflow_runner(),
        ),
        Worker(client, task_queue=names.agent_queue(agent_id), activities=kernel),
    ):
        handle = await client.start_workflow(
            SessionWorkflow.run,
            SessionInput(session_id, "s", "ada", "p", "default", max_attempts=max_attempts),
            id=names.session_workflow(session_id),
            task_queue=names.CONTROL_QUEUE,
        )
        spec = KernelSpec(session_id, kernel_id, 0, agent_id, "img", ["true"], {}, {"cpu": 1000})
        await handle.signal("assigned", Assignment(0, [spec]))
        if after is not None:
            await after.wait()
        for name, message in signals:
            if isinstance(message, int):
                message = KernelExit(kernel_id, 0, message)
            await handle.signal(name, message)
        return await handle.result()


def assert_nothing_is_left(world: World) -> None:
    assert world.containers == set()
    assert not world.held
    assert world.releases == 1
    assert len(world.ever_made) == len(set(world.ever_made))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_life_ends_the_same_though_a_step_fails_once(
    step: str, when: str, temporal: WorkflowEnvironment
) -> None:
    world = World(fails=(step, when))
    assert await live(temporal, world, ("kernel_exited", 7)) == "TERMINATED"
    assert world.ending is not None
    assert (world.ending.ending.reason, world.ending.ending.exit_code) == ("self-terminated", 7)
    assert_nothing_is_left(world)


STOP = ("cancel", Cancel("user-requested", "user:ada"))


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_stop_leaves_nothing_though_a_step_fails_once(
    step: str, when: str, temporal: WorkflowEnvironment
) -> None:
    world = World(fails=(step, when))
    assert await live(temporal, world, STOP, after=world.running) == "TERMINATED"
    assert world.ending is not None
    assert world.ending.ending.reason == "user-requested"
    assert_nothing_is_left(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["destroy_kernel", "move_session", "finish_session"])
async def test_a_stop_during_creation_leaves_nothing_though_a_step_fails_once(
    step: str, when: str, temporal: WorkflowEnvironment
) -> None:
    world = World(fails=(step, when), slow_create=True)
    assert await live(temporal, world, STOP, after=world.creating) == "TERMINATED"
    assert world.ending is not None
    assert world.ending.ending.reason == "user-requested"
    assert_nothing_is_left(world)


async def test_an_image_that_can_not_be_had_ends_in_error_with_the_words_of_the_runtime(
    temporal: WorkflowEnvironment,
) -> None:
    world = World(image_missing=True)
    assert await live(temporal, world) == "ERROR"
    assert world.ending is not None
    assert (world.ending.ending.reason, world.ending.ending.message) == ("image-pull-failed", "pull access denied")
    assert_nothing_is_left(world)


async def test_a_refusal_at_the_last_attempt_ends_with_the_first_cause(temporal: WorkflowEnvironment) -> None:
    world = World(refuses=1)
    assert await live(temporal, world, max_attempts=1) == "ERROR"
    assert world.ending is not None
    assert (world.ending.ending.reason, world.ending.ending.message) == ("failed-to-create", "refused")
    assert_nothing_is_left(world)
