"""A session whose image is pulled, a gang that runs one image, and an order for many nodes."""

from __future__ import annotations

import asyncio

from temporalio import activity
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutError, TimeoutType
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from moorage.contracts import activities as contract
from moorage.contracts import names
from moorage.contracts.activities import KernelActivities, Pulled, PullImage, PullMode, SessionActivities, registered
from moorage.contracts.images import IMAGE_IN_USE, ImageActivities, NodeImageActivities, RemoveImage
from moorage.domain.ids import new_id
from moorage.domain.image_orders import ImageOrder, NodeResult, NodeState, OrderKind
from moorage.temporal import workflow_runner
from tests.workflows.world import DIGEST, FakeLedger, FakeNode, World, a_life, assert_nothing_is_left
from workflows.images import ImageWorkflow
from workflows.images import _words as words_of


async def test_a_missing_image_is_pulled_with_what_its_registry_asks_for(temporal: WorkflowEnvironment) -> None:
    world = World(image_missing=True, pullable=True)
    async with a_life(temporal, world) as life:
        await life.assign()
        await world.running.wait()
        await life.exit(0)
        assert await life.handle.result() == "TERMINATED"
    assert world.pulls == [PullImage("img", PullMode.MISSING, "robot", "sesame")]
    assert "PREPARING" in [move.to_status for move in world.moves]
    assert_nothing_is_left(world)


async def test_all_kernels_of_a_gang_run_what_the_main_ones_node_has(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, kernels=3) as life:
        await life.assign()
        await world.running.wait()
        await life.exit(0)
        await life.handle.result()
    assert [(one.image, one.mode) for one in world.pulls] == [("img", PullMode.LOOK)]
    assert {spec.image for spec in world.created} == {f"img@{DIGEST}"}
    assert len(world.created) == 3


async def test_a_gang_whose_image_cannot_be_had_ends_by_that(temporal: WorkflowEnvironment) -> None:
    world = World(image_missing=True)
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        assert await life.handle.result() == "ERROR"
    assert world.ending is not None
    assert (world.ending.ending.reason, world.created) == ("image-pull-failed", [])
    assert_nothing_is_left(world)


async def test_a_session_on_one_node_is_not_asked_what_its_image_is(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await world.running.wait()
        await life.exit(0)
        await life.handle.result()
    assert world.pulls == []


class Node(KernelActivities, NodeImageActivities):
    """`good` has what is asked of it, `bad` refuses; `flaky` fails once before it does it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.orders: list[object] = []

    @activity.defn
    async def pull_image(self, order: PullImage) -> Pulled:
        self.orders.append(order)
        if self.kind == "flaky" and len(self.orders) == 1:
            raise RuntimeError("killed in the middle")
        if self.kind == "bad":
            raise ApplicationError("denied", type=contract.IMAGE_PULL_FAILED, non_retryable=True)
        return Pulled("id1", DIGEST)

    @activity.defn
    async def remove_image(self, order: RemoveImage) -> bool:
        self.orders.append(order)
        if self.kind == "bad":
            raise ApplicationError("session s1 has it", type=IMAGE_IN_USE, non_retryable=True)
        return self.kind == "good"

    create_kernel = FakeNode.create_kernel
    destroy_kernel = FakeNode.destroy_kernel
    update_kernel = FakeNode.update_kernel
    commit_kernel = FakeNode.commit_kernel


class Rows(ImageActivities):
    def __init__(self) -> None:
        self.results: dict[str, NodeResult] = {}
        self.ended: list[str] = []

    @activity.defn
    async def record_result(self, result: NodeResult) -> None:
        self.results[result.agent_id.partition("-")[0]] = result

    @activity.defn
    async def end_order(self, order_id: str) -> None:
        self.ended.append(order_id)


async def _ordered(temporal: WorkflowEnvironment, kind: OrderKind, *kinds: str) -> tuple[Rows, dict[str, Node]]:
    """Nodes of these kinds."""
    rows, order_id = Rows(), new_id()
    nodes = {f"{one}-{order_id[:8]}": Node(one) for one in kinds}
    control = Worker(
        temporal.client,
        task_queue=names.CONTROL_QUEUE,
        workflows=[ImageWorkflow],
        activities=[*registered(ImageActivities, rows), *registered(SessionActivities, FakeLedger(World()))],
        workflow_runner=workflow_runner(),
    )
    workers = [control] + [
        Worker(
            temporal.client,
            task_queue=names.agent_queue(agent),
            activities=[node.pull_image, node.remove_image],
        )
        for agent, node in nodes.items()
    ]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    try:
        await temporal.client.execute_workflow(
            ImageWorkflow.run,
            ImageOrder(order_id, kind, "app:1", list(nodes)),
            id=names.image_workflow(order_id),
            task_queue=names.CONTROL_QUEUE,
        )
    finally:
        await asyncio.gather(*(worker.shutdown() for worker in workers))
        await asyncio.gather(*running)
    assert rows.ended == [order_id]
    return rows, {node.kind: node for node in nodes.values()}


async def test_each_node_of_a_pull_has_its_own_result(temporal: WorkflowEnvironment) -> None:
    rows, nodes = await _ordered(temporal, OrderKind.PULL, "good", "bad", "flaky")
    assert {name: one.state for name, one in rows.results.items()} == {
        "good": NodeState.DONE, "bad": NodeState.FAILED, "flaky": NodeState.DONE,
    }  # fmt: skip
    assert (rows.results["good"].digest, rows.results["bad"].message) == (DIGEST, "denied")
    assert nodes["good"].orders == [PullImage("app:1", PullMode.ALWAYS, "robot", "sesame")]
    assert len(nodes["flaky"].orders) == 2


def test_a_node_without_an_agent_is_told_in_words() -> None:
    """The server of these tests does not skip the time in which nobody takes a task."""
    late = TimeoutError("Timeout", type=TimeoutType.SCHEDULE_TO_START, last_heartbeat_details=[])
    error = ActivityError(
        "failed", scheduled_event_id=1, started_event_id=2, identity="", activity_type="pull_image", activity_id="1",
        retry_state=None,
    )  # fmt: skip
    error.__cause__ = late
    assert words_of(error) == "the node did not answer"


async def test_a_node_that_needs_an_image_keeps_it_when_the_others_lose_it(temporal: WorkflowEnvironment) -> None:
    rows, _ = await _ordered(temporal, OrderKind.REMOVE, "good", "bad", "flaky")
    told = {name: (one.state, one.message) for name, one in rows.results.items()}
    assert told == {
        "good": (NodeState.DONE, "removed"),
        "bad": (NodeState.FAILED, "session s1 has it"),
        "flaky": (NodeState.DONE, "it was not there"),
    }
