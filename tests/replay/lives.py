"""Lives of sessions, each lived once on a real Temporal, and their histories with the payloads encrypted as ever."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from temporalio import activity
from temporalio.client import Client, WorkflowHandle, WorkflowHistory
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from moorage.contracts import names
from moorage.contracts.activities import (
    Answer,
    Assignment,
    Cancel,
    KernelActivities,
    NodeLost,
    Requeue,
    Resize,
    Restart,
    SessionActivities,
    SessionInput,
    SessionState,
    registered,
)
from moorage.domain.ids import new_id
from moorage.domain.session import KernelExit, KernelSpec, NodeLossPolicy, RestartPolicy
from moorage.temporal import data_converter, workflow_runner
from tests.support.builders import KEYS
from tests.workflows.world import FakeLedger, FakeNode, World
from workflows.session import SessionWorkflow


@dataclass
class Life:
    """A session about to live on one node."""

    client: Client
    world: World
    input: SessionInput
    agent_id: str
    handle: WorkflowHandle[SessionWorkflow, str] | None = None

    @property
    def kernel_id(self) -> str:
        return f"k-{self.input.session_id}"

    def spec(self, attempt: int) -> KernelSpec:
        env, slots = {"SECRET": "x"}, {"cpu": 1000}
        return KernelSpec(self.input.session_id, self.kernel_id, attempt, self.agent_id, "img:1", ["true"], env, slots)

    async def tell(self, signal: str, message: object) -> None:
        assert self.handle is not None
        await self.handle.signal(signal, message)

    async def place(self, attempt: int = 0) -> None:
        await self.tell("assigned", Assignment(attempt, [self.spec(attempt)]))

    async def exit(self, code: int, attempt: int = 0) -> None:
        await self.tell("kernel_exited", KernelExit(self.kernel_id, attempt, code))

    async def until_it_runs(self) -> None:
        await self.world.running.wait()
        self.world.running.clear()


class Ledger(FakeLedger):
    """With a scheduler behind it, which places at once what is requeued."""

    def __init__(self, life: Life) -> None:
        super().__init__(life.world)
        self._life = life

    @activity.defn
    async def requeue_session(self, requeue: Requeue) -> int:
        attempt = await super().requeue_session(requeue)
        await self._life.place(attempt)
        return attempt

    @activity.defn
    async def session_state(self, session_id: str) -> SessionState:
        return SessionState("RUNNING", 0, [self._life.spec(0)])


@dataclass(frozen=True, slots=True)
class Story:
    """What happens in a life, and the status that it ends with."""

    end: str
    happens: Callable[[Life], Awaitable[None]]
    world: Callable[[], World] = World
    wish: dict[str, float | str | bool] = field(default_factory=dict)


async def _ends_by_itself(life: Life) -> None:
    await life.place()
    await life.until_it_runs()
    await life.exit(7)


async def _is_stopped(life: Life) -> None:
    await life.place()
    await life.until_it_runs()
    await life.tell("cancel", Cancel("user-requested", "user:ada"))


async def _is_stopped_while_created(life: Life) -> None:
    await life.place()
    await life.world.creating.wait()
    await life.tell("cancel", Cancel("force-terminated", "user:ada", forced=True))


async def _is_cancelled_while_it_waits(life: Life) -> None:
    await life.tell("cancel", Cancel("user-requested", "user:ada"))


async def _is_placed(life: Life) -> None:
    await life.place()


async def _nothing(life: Life) -> None:
    """Its deadlines alone."""


async def _runs_at_the_second_attempt(life: Life) -> None:
    await life.place()
    await life.until_it_runs()
    await life.exit(0, attempt=1)


async def _loses_its_node(life: Life) -> None:
    await life.place()
    await life.until_it_runs()
    await life.tell("node_lost", NodeLost(life.agent_id, "no heartbeat for 15 s"))


async def _moves_from_a_lost_node(life: Life) -> None:
    await _loses_its_node(life)
    await life.until_it_runs()
    await life.exit(0, attempt=1)


async def _is_restarted_and_resized(life: Life) -> None:
    await life.place()
    await life.world.started[0].wait()
    assert life.handle is not None
    for update, wish in (("restart", Restart("user:ada")), ("resize", Resize({"cpu": 2000}, "user:ada"))):
        assert (await life.handle.execute_update(update, wish, result_type=Answer)).done
    await life.exit(0, attempt=1)


async def _falls_and_starts_again(life: Life) -> None:
    await life.place()
    await life.world.started[0].wait()
    await life.exit(1)
    await life.world.started[1].wait()
    await life.exit(0, attempt=1)


STORIES = {
    "ends-by-itself": Story("TERMINATED", _ends_by_itself),
    "is-stopped": Story("TERMINATED", _is_stopped),
    "is-stopped-while-created": Story("TERMINATED", _is_stopped_while_created, lambda: World(slow_create=True)),
    "is-cancelled-while-it-waits": Story("CANCELLED", _is_cancelled_while_it_waits),
    "waits-too-long": Story("CANCELLED", _nothing, wish={"pending_timeout_s": 0.2}),
    "outlives-its-lifetime": Story("TERMINATED", _is_placed, wish={"lifetime_s": 0.2}),
    "is-refused-and-requeued": Story("TERMINATED", _runs_at_the_second_attempt, lambda: World(refuses=1)),
    "is-refused-everywhere": Story("ERROR", _is_placed, lambda: World(refuses=3)),
    "has-no-image": Story("ERROR", _is_placed, lambda: World(image_missing=True)),
    "loses-its-node": Story("ERROR", _loses_its_node),
    "moves-from-a-lost-node": Story(
        "TERMINATED", _moves_from_a_lost_node, wish={"on_node_loss": NodeLossPolicy.REQUEUE}
    ),
    "is-restarted-and-resized": Story("TERMINATED", _is_restarted_and_resized),
    "falls-and-starts-again": Story(
        "TERMINATED", _falls_and_starts_again, wish={"restart_policy": RestartPolicy.ON_FAILURE}
    ),
    "is-ended-by-the-reaper": Story("ERROR", _nothing, wish={"recovered": True}),
}


@asynccontextmanager
async def temporal() -> AsyncIterator[Client]:
    """A development server with what `moor up` gives it."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(Path(sys.executable).with_name("temporal")),
        data_converter=data_converter(KEYS),
        search_attributes=names.SEARCH_ATTRIBUTES,
        identity="replay",
    ) as environment:
        yield environment.client


async def history_of(client: Client, story: Story) -> WorkflowHistory:
    """Lives it to its end and returns all that Temporal kept of it."""
    session_id = new_id()
    wish = replace(SessionInput(session_id, "s", "ada", "p", "default", "img:1"), **story.wish)  # type: ignore[arg-type]
    life = Life(client, story.world(), wish, f"n-{session_id[:8]}")
    queue = f"control-{session_id}"
    async with (
        Worker(
            client,
            task_queue=queue,
            workflows=[SessionWorkflow],
            activities=registered(SessionActivities, Ledger(life)),
            workflow_runner=workflow_runner(),
        ),
        Worker(
            client,
            task_queue=names.agent_queue(life.agent_id),
            activities=registered(KernelActivities, FakeNode(life.world)),
        ),
    ):
        life.handle = await client.start_workflow(
            SessionWorkflow.run, life.input, id=names.session_workflow(session_id), task_queue=queue
        )
        async with asyncio.timeout(60):
            await story.happens(life)
            assert await life.handle.result() == story.end
        return await life.handle.fetch_history()


def replayer() -> Replayer:
    """As a worker of this code meets a history."""
    return Replayer(workflows=[SessionWorkflow], workflow_runner=workflow_runner(), data_converter=data_converter(KEYS))
