"""A fake node and a fake ledger for the story of a session, on the time-skipping server."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from moorage.contracts import activities as contract
from moorage.contracts import names
from moorage.contracts.activities import (
    Again,
    Answer,
    Assignment,
    CommitKernel,
    CommittedImage,
    CreatedKernel,
    Destroy,
    Destroyed,
    Finish,
    IdleReport,
    KernelActivities,
    Move,
    Note,
    Prolong,
    PullImage,
    Requeue,
    Reserved,
    ReserveResize,
    SessionActivities,
    SessionInput,
    SessionState,
    SettleResize,
    Started,
    UpdateKernel,
    registered,
)
from moorage.domain.ids import new_id
from moorage.domain.session import KernelExit, KernelSpec
from moorage.domain.usage import KernelUsage
from moorage.temporal import workflow_runner
from workflows.session import SessionWorkflow


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
    requeues: list[Requeue] = field(default_factory=list)
    refuses_on: str = ""  # the node that refuses the next create
    at_requeue: Callable[[], Awaitable[None]] | None = None  # happens between a requeue and its answer
    slow_create: bool = False  # a create ends only after a destroy has come
    destroyed: set[tuple[str, int]] = field(default_factory=set)
    specs: dict[str, KernelSpec] = field(default_factory=dict)  # of the containers that were made last
    moves: list[Move] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    prolonged: list[Prolong] = field(default_factory=list)
    limits: dict[str, dict[str, int]] = field(default_factory=dict)  # of containers whose limits were changed
    update_refused_on: str = ""  # the node that refuses the next change of limits
    reserved: Reserved = field(default_factory=Reserved)  # what the ledger says of a resize
    settled: list[SettleResize] = field(default_factory=list)
    last_lines: str = ""  # of each container that is removed
    creating: asyncio.Event = field(default_factory=asyncio.Event)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    started: dict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))  # by attempt
    failed: asyncio.Event = field(default_factory=asyncio.Event)
    requeued: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def trip(self, step: str, when: str) -> None:
        if self.fails == (step, when):
            self.fails = ("", "")
            self.failed.set()
            raise RuntimeError(f"injected {when} {step}")


class FakeNode(KernelActivities):
    def __init__(self, world: World) -> None:
        self._world = world

    @activity.defn
    async def create_kernel(self, spec: KernelSpec) -> CreatedKernel:
        self._world.trip("create_kernel", "before")
        if self._world.image_missing:
            raise ApplicationError("no such image", type=contract.IMAGE_MISSING, non_retryable=True)
        if self._world.refuses or self._world.refuses_on == spec.agent_id:
            self._world.refuses = max(0, self._world.refuses - 1)
            self._world.refuses_on = ""
            raise ApplicationError("refused", type=contract.CREATE_REFUSED, non_retryable=True)
        key = (spec.kernel_id, spec.attempt)
        self._world.specs[spec.kernel_id] = spec
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
        usage = KernelUsage(order.kernel_id, order.attempt, 60.0, cpu_ms=1000)
        return Destroyed(order.kernel_id, order.attempt, True, usage=usage, last_lines=self._world.last_lines)

    @activity.defn
    async def update_kernel(self, order: UpdateKernel) -> None:
        self._world.trip("update_kernel", "before")
        if self._world.update_refused_on and order.kernel_id.startswith(self._world.update_refused_on):
            self._world.update_refused_on = ""
            raise ApplicationError("uses 2 GB", type=contract.UPDATE_REFUSED, non_retryable=True)
        self._world.limits[order.kernel_id] = order.slots
        self._world.trip("update_kernel", "after")

    @activity.defn
    async def commit_kernel(self, order: CommitKernel) -> CommittedImage:
        return CommittedImage(order.image, "sha256:1", 7)


class FakeLedger(SessionActivities):
    def __init__(self, world: World) -> None:
        self._world = world

    @activity.defn
    async def move_session(self, move: Move) -> bool:
        self._world.trip("move_session", "before")
        self._world.moves.append(move)
        self._world.trip("move_session", "after")
        return True

    @activity.defn
    async def record_started(self, started: Started) -> bool:
        self._world.trip("record_started", "before")
        self._world.running.set()
        self._world.trip("record_started", "after")
        self._world.started[started.attempt].set()
        return True

    @activity.defn
    async def requeue_session(self, requeue: Requeue) -> int:
        self._world.trip("requeue_session", "before")
        if requeue.attempt in {earlier.attempt for earlier in self._world.requeues}:
            return requeue.attempt + 1
        self._world.requeues.append(requeue)
        self._world.trip("requeue_session", "after")
        if self._world.at_requeue is not None:
            await self._world.at_requeue()
        self._world.requeued.set()
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

    @activity.defn
    async def note_session(self, note: Note) -> bool:
        self._once("note_session", self._world.notes, note)
        return True

    @activity.defn
    async def place_again(self, again: Again) -> Assignment:
        self._world.trip("place_again", "before")
        number, kernels = again.attempt + 1, list(self._world.specs.values())
        assert not self._world.containers, "no container of the old attempt is left"
        self._world.trip("place_again", "after")
        slots = again.slots
        return Assignment(number, [replace(one, attempt=number, slots=slots or one.slots) for one in kernels])

    @activity.defn
    async def reserve_resize(self, order: ReserveResize) -> Reserved:
        self._world.trip("reserve_resize", "before")
        self._world.trip("reserve_resize", "after")
        return self._world.reserved

    @activity.defn
    async def settle_resize(self, order: SettleResize) -> bool:
        self._once("settle_resize", self._world.settled, order)
        return True

    @activity.defn
    async def prolong_session(self, order: Prolong) -> bool:
        self._once("prolong_session", self._world.prolonged, order)
        return True

    def _once(self, step: str, kept: list[Any], order: object) -> None:
        self._world.trip(step, "before")
        if order not in kept:
            kept.append(order)
        self._world.trip(step, "after")


@dataclass
class Life:
    """A session whose workflow runs, with the nodes that its kernels are placed on."""

    handle: WorkflowHandle[SessionWorkflow, str]
    session_id: str
    agents: list[str]

    def kernel_id(self, number: int) -> str:
        return f"k{number}-{self.session_id}"

    async def assign(self, attempt: int = 0) -> None:
        specs = [
            KernelSpec(self.session_id, self.kernel_id(n), attempt, agent, "img", ["true"], {}, {"cpu": 1000})
            for n, agent in enumerate(self.agents)
        ]
        await self.handle.signal("assigned", Assignment(attempt, specs))

    async def exit(self, code: int, *, kernel: int = 0, attempt: int = 0) -> None:
        await self.handle.signal("kernel_exited", KernelExit(self.kernel_id(kernel), attempt, code))

    async def runs(self, world: World, attempt: int = 0) -> None:
        """Its containers of that attempt were recorded as running."""
        await world.started[attempt].wait()

    async def ask(self, update: str, wish: object) -> Answer:
        answer: Answer = await self.handle.execute_update(update, wish, result_type=Answer)
        return answer

    async def idle(self, stage: str, *, kernel: int = 0, attempt: int = 0, dry_run: bool = False) -> None:
        report = IdleReport(self.kernel_id(kernel), attempt, stage, f"{stage}: CPU 0.1 %", dry_run, at=time.monotonic())
        await self.handle.signal("idle_reported", report)


@asynccontextmanager
async def a_life(
    temporal: WorkflowEnvironment, world: World, *, kernels: int = 1, **wish: float | str
) -> AsyncIterator[Life]:
    """A session that waits for its assignment; each kernel on a node of its own. `wish` are fields of its input."""
    session_id, client = new_id(), temporal.client
    agents = [f"n{n}-{session_id[:8]}" for n in range(kernels)]
    control = Worker(
        client,
        task_queue=names.CONTROL_QUEUE,
        workflows=[SessionWorkflow],
        activities=registered(SessionActivities, FakeLedger(world)),
        workflow_runner=workflow_runner(),
    )
    nodes = [
        Worker(client, task_queue=names.agent_queue(agent), activities=registered(KernelActivities, FakeNode(world)))
        for agent in agents
    ]
    async with _all([control, *nodes]):
        handle = await client.start_workflow(
            SessionWorkflow.run,
            replace(SessionInput(session_id, "s", "ada", "p", "default"), **wish),  # type: ignore[arg-type]
            id=names.session_workflow(session_id),
            task_queue=names.CONTROL_QUEUE,
        )
        yield Life(handle, session_id, agents)


@asynccontextmanager
async def _all(workers: list[Worker]) -> AsyncIterator[None]:
    if not workers:
        yield
        return
    async with workers[0], _all(workers[1:]):
        yield


def assert_nothing_is_left(world: World) -> None:
    assert world.containers == set()
    assert not world.held
    assert world.releases == 1
    assert len(world.ever_made) == len(set(world.ever_made))
