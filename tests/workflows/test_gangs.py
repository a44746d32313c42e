"""Sessions of several kernels, and sessions that must give their room up."""

from __future__ import annotations

import pytest
from temporalio.testing import WorkflowEnvironment

from moorage.contracts.activities import NodeLost, Preempt
from tests.workflows.world import Life, World, a_life, assert_nothing_is_left

pytestmark = pytest.mark.asyncio(loop_scope="package")
REQUEUED = Preempt(0, requeue=True, message="needed by another")


async def next_attempt(world: World, life: Life, attempt: int) -> None:
    """Waits for the requeue, then assigns again; the events of the earlier attempt count no more."""
    await world.requeued.wait()
    for event in (world.requeued, world.running, world.creating, world.stopping):
        event.clear()
    await life.assign(attempt)


async def test_a_gang_of_which_one_kernel_is_refused_starts_whole_or_not_at_all(temporal: WorkflowEnvironment) -> None:
    # The others are still being made when one is refused: the test server can't cancel what has just been completed.
    world = World(slow_create=True)
    async with a_life(temporal, world, kernels=3) as life:
        world.refuses_on = life.agents[1]
        await life.assign()
        await world.requeued.wait()
        assert world.containers == set()
        [requeue] = world.requeues
        assert (requeue.reason, requeue.avoid_agent) == ("failed-to-create", life.agents[1])
        world.slow_create = False
        await next_attempt(world, life, 1)
        await world.running.wait()
        assert len(world.containers) == 3
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert_nothing_is_left(world)


async def test_the_result_of_a_gang_is_that_of_its_main_kernel(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await world.running.wait()
        await life.exit(9, kernel=0)
        assert await life.handle.result() == "TERMINATED"
    assert world.ending is not None
    assert world.ending.ending.exit_code == 9
    assert {used.kernel_id for used in world.ending.usage} == {life.kernel_id(0), life.kernel_id(1)}
    assert_nothing_is_left(world)


async def test_only_what_a_gang_held_on_the_lost_node_is_fenced(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await world.running.wait()
        await life.handle.signal("node_lost", NodeLost(life.agents[1], "node lost"))
        assert await life.handle.result() == "ERROR"
        assert world.ending is not None
        assert world.ending.fenced_agents == [life.agents[1]]
        assert world.containers == {(life.kernel_id(1), 0)}, "it is proven gone when the node is back"


async def test_a_preempted_session_stops_and_waits_again(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await world.running.wait()
        await life.handle.signal("preempt", REQUEUED)
        await world.requeued.wait()
        assert world.containers == set()
        [requeue] = world.requeues
        assert (requeue.reason, requeue.avoid_agent, requeue.message) == ("preempted", "", "needed by another")
        assert [used.attempt for used in requeue.usage] == [0]
        await next_attempt(world, life, 1)
        await world.running.wait()
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert world.ending is not None
    assert [used.attempt for used in world.ending.usage] == [1]
    assert_nothing_is_left(world)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["destroy_kernel", "move_session", "requeue_session", "create_kernel"])
async def test_a_preemption_leaves_nothing_though_a_step_fails_once(
    step: str, when: str, temporal: WorkflowEnvironment
) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        world.at_requeue = lambda: life.assign(1)
        await life.assign()
        await world.running.wait()
        world.running.clear()
        world.fails = (step, when)
        await life.handle.signal("preempt", REQUEUED)
        if (step, when) == ("requeue_session", "after"):
            await world.failed.wait()
            await life.assign(1)  # the scheduler saw the requeue though its answer was lost
        await world.running.wait()
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert len(world.requeues) == 1
    assert_nothing_is_left(world)


async def test_preemptions_are_no_failures(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, max_attempts=2) as life:
        await life.assign()
        for attempt in range(3):
            await world.running.wait()
            await life.handle.signal("preempt", Preempt(attempt, requeue=True, message="again"))
            await next_attempt(world, life, attempt + 1)
        await world.running.wait()
        await life.exit(0, attempt=3)
        assert await life.handle.result() == "TERMINATED"
    assert_nothing_is_left(world)


async def test_a_preemption_may_end_the_session(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await world.running.wait()
        await life.handle.signal("preempt", Preempt(0, requeue=False, message="needed by another"))
        assert await life.handle.result() == "TERMINATED"
    assert world.ending is not None
    assert (world.ending.ending.reason, world.ending.ending.result) == ("preempted", "FAILURE")
    assert_nothing_is_left(world)


async def test_a_preemption_that_was_meant_for_an_earlier_attempt_is_ignored(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await world.running.wait()
        await life.handle.signal("preempt", REQUEUED)
        await next_attempt(world, life, 1)
        await world.running.wait()
        await life.handle.signal("preempt", REQUEUED)
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert len(world.requeues) == 1


async def test_a_lost_session_that_may_move_is_first_tried_elsewhere(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, on_node_loss="requeue") as life:
        await life.assign()
        await world.running.wait()
        fenced_at = (await temporal.get_current_time()).timestamp() + 3600
        await life.handle.signal("node_lost", NodeLost(life.agents[0], "node lost", fenced_at))
        assert not world.requeues, "the node's own fence comes first"
        await temporal.sleep(3700)
        await world.requeued.wait()
        [requeue] = world.requeues
        assert (requeue.reason, requeue.avoid_agent) == ("node-lost", life.agents[0])
        assert requeue.fenced_agents == [life.agents[0]]
        await life.handle.terminate()


async def test_an_assignment_that_comes_while_the_requeue_is_recorded_is_kept(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        world.at_requeue = lambda: life.assign(1)
        await life.assign()
        await world.running.wait()
        world.running.clear()
        await life.handle.signal("preempt", REQUEUED)
        await world.running.wait()
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert_nothing_is_left(world)
