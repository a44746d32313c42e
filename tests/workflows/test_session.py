"""The story of a session with a fake node and a fake ledger: each step fails once before and once after its effect."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.testing import WorkflowEnvironment

from moorage.contracts.activities import Cancel
from tests.workflows.world import World, a_life, assert_nothing_is_left

STEPS = ["create_kernel", "destroy_kernel", "move_session", "record_started", "finish_session"]
pytestmark = pytest.mark.asyncio(loop_scope="package")


async def live(
    temporal: WorkflowEnvironment,
    world: World,
    *signals: tuple[str, object],
    after: asyncio.Event | None = None,
    max_attempts: int = 3,
) -> str:
    """Runs a whole life: assigned at once, then (`after` that) the signals; a number is the exit code of its kernel."""
    async with a_life(temporal, world, max_attempts=max_attempts) as life:
        await life.assign()
        if after is not None:
            await after.wait()
        for name, message in signals:
            if isinstance(message, int):
                await life.exit(message)
            else:
                await life.handle.signal(name, message)
        return await life.handle.result()


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
