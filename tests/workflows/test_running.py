"""What a running session may become: restarted, resized, extended, found ill or idle. Each step fails once, too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from temporalio.client import WorkflowUpdateStage
from temporalio.testing import WorkflowEnvironment

from moorage.contracts.activities import (
    Answer,
    Cancel,
    Commit,
    Extend,
    HealthChange,
    NodeLost,
    Reserved,
    Resize,
    Restart,
)
from tests.workflows.world import Life, World, a_life, assert_nothing_is_left

pytestmark = pytest.mark.asyncio(loop_scope="package")

STOP = Cancel("user-requested", "user:ada")
LARGER = {"cpu": 2000}


def ending(world: World) -> tuple[str, str]:
    assert world.ending is not None
    return world.ending.ending.status, world.ending.ending.reason


def statuses(world: World) -> list[tuple[str, str]]:
    """Moves with a reason."""
    return [(move.to_status, move.reason) for move in world.moves if move.reason]


async def lived_s(life: Life) -> float:
    seen = await life.handle.describe()
    assert seen.close_time is not None
    return (seen.close_time - seen.start_time).total_seconds()


async def _is_restarted(life: Life, world: World) -> None:
    assert (await life.ask("restart", Restart("user:ada"))).done
    await life.exit(7, attempt=0)  # late words of the container that is gone
    await life.exit(0, attempt=1)


async def _falls_once(life: Life, world: World) -> None:
    await life.exit(1)
    await life.runs(world, attempt=1)
    await life.exit(0, attempt=1)


async def _is_resized(life: Life, world: World) -> None:
    assert (await life.ask("resize", Resize(LARGER, "user:ada"))).done
    await life.exit(0)


async def _is_extended(life: Life, world: World) -> None:
    assert (await life.ask("extend", Extend(60.0, "user:ada"))).done
    await life.exit(0)


STORIES: dict[str, tuple[Callable[[Life, World], Awaitable[None]], list[str]]] = {
    "restarted": (_is_restarted, ["move_session", "destroy_kernel", "place_again", "create_kernel", "record_started"]),
    "falls": (_falls_once, ["move_session", "destroy_kernel", "place_again", "create_kernel", "record_started"]),
    "resized": (_is_resized, ["reserve_resize", "update_kernel", "settle_resize"]),
    "extended": (_is_extended, ["prolong_session"]),
}
FAILURES = [
    pytest.param(story, step, when, id=f"{name}-{step}-{when}")
    for name, (story, steps) in STORIES.items()
    for step in steps
    for when in ("before", "after")
]


@pytest.mark.parametrize(("story", "step", "when"), FAILURES)
async def test_a_story_ends_the_same_though_a_step_fails_once(
    story: Callable[[Life, World], Awaitable[None]], step: str, when: str, temporal: WorkflowEnvironment
) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="on-failure") as life:
        await life.assign()
        await life.runs(world)
        world.fails = (step, when)
        await story(life, world)
        assert await life.handle.result() == "TERMINATED"
    assert world.failed.is_set()
    assert world.ending is not None
    assert (world.ending.ending.reason, world.ending.ending.exit_code) == ("self-terminated", 0)
    assert_nothing_is_left(world)


async def test_a_restart_makes_new_containers_in_the_same_places(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("restart", Restart("user:ada"))
        assert answer == Answer(True, data={"attempt": 1})
        assert sorted(world.containers) == [(life.kernel_id(0), 1), (life.kernel_id(1), 1)]
        await life.handle.signal("cancel", STOP)
        await life.handle.result()
    assert statuses(world) == [("RESTARTING", "restarted"), ("TERMINATING", "user-requested")]
    assert_nothing_is_left(world)


async def test_a_session_that_waits_is_not_restarted(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        answer = await life.ask("restart", Restart("user:ada"))
        assert (answer.done, answer.code) == (False, "session-not-running")
        await life.handle.signal("cancel", STOP)
        assert await life.handle.result() == "CANCELLED"


@pytest.mark.parametrize(
    ("policy", "code", "ends"),
    [("never", 1, True), ("on-failure", 0, True), ("on-failure", 1, False), ("always", 0, False)],
)
async def test_a_policy_says_which_end_is_another_start(
    policy: str, code: int, ends: bool, temporal: WorkflowEnvironment
) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy=policy) as life:
        await life.assign()
        await life.runs(world)
        await life.exit(code)
        if not ends:
            await life.runs(world, attempt=1)
            await life.handle.signal("cancel", STOP)
        await life.handle.result()
    assert ending(world) == ("TERMINATED", "self-terminated" if ends else "user-requested")
    assert_nothing_is_left(world)


async def test_falls_in_a_row_end_in_error(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="always", max_restarts=2) as life:
        await life.assign()
        for attempt in range(3):
            await life.runs(world, attempt)
            await life.exit(3, attempt=attempt)
        assert await life.handle.result() == "ERROR"
    assert ending(world) == ("ERROR", "crash-loop")
    assert world.ending is not None
    assert (world.ending.ending.exit_code, world.ending.ending.message) == (
        3,
        "exit code 3; it was started again 2 times, and not once more",
    )
    assert_nothing_is_left(world)


async def test_a_failure_ends_with_what_was_said_last_and_a_stop_does_not(temporal: WorkflowEnvironment) -> None:
    for last_word, expected in ((3, "out of ideas"), (None, "")):
        world = World(last_lines="out of ideas")
        async with a_life(temporal, world) as life:
            await life.assign()
            await life.runs(world)
            await (life.handle.signal("cancel", STOP) if last_word is None else life.exit(last_word))
            await life.handle.result()
        assert world.ending is not None
        assert world.ending.last_lines == expected


async def test_a_container_that_has_settled_begins_a_new_row(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="always", max_restarts=1) as life:
        await life.assign()
        for attempt in range(3):
            await life.runs(world, attempt)
            await temporal.sleep(400)
            await life.exit(3, attempt=attempt)
        await life.runs(world, 3)
        await life.handle.signal("cancel", STOP)
        await life.handle.result()
    assert ending(world) == ("TERMINATED", "user-requested")


async def test_a_stop_ends_the_wait_for_the_next_start(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="always", restarts=9, max_restarts=100) as life:
        await life.assign()
        await life.runs(world)
        with temporal.auto_time_skipping_disabled():  # the wait is five minutes long
            await life.exit(1)
            await world.stopping.wait()
            await life.handle.signal("cancel", STOP)
            await life.handle.result()
    assert ending(world) == ("TERMINATED", "user-requested")
    assert_nothing_is_left(world)


async def test_a_lifetime_counts_from_the_first_start(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="always", lifetime_s=600.0) as life:
        await life.assign()
        await life.runs(world)
        await temporal.sleep(500)
        await life.exit(1)
        await life.runs(world, attempt=1)
        await life.handle.result()
        assert 600 <= await lived_s(life) < 700
    assert ending(world) == ("TERMINATED", "lifetime-exceeded")


async def test_a_node_lost_in_a_restart_ends_it_as_any_other(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, on_node_loss="requeue") as life:
        await life.assign()
        await life.runs(world)
        asked = await life.handle.start_update(
            "restart", Restart("user:ada"), wait_for_stage=WorkflowUpdateStage.ACCEPTED, result_type=Answer
        )
        await life.handle.signal("node_lost", NodeLost(life.agents[0], "no heartbeat"))
        await world.requeued.wait()
        assert (await asked.result()).done is False
        await life.handle.signal("cancel", STOP)
        await life.handle.result()
    assert world.requeues[0].reason == "node-lost"


async def _tell_health(life: Life, health: str) -> None:
    await life.handle.signal("health_changed", HealthChange(life.kernel_id(0), 0, health, f"is {health}", at=1.0))


async def test_an_ill_container_ends_its_session(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        await _tell_health(life, "healthy")
        await _tell_health(life, "unhealthy")
        assert await life.handle.result() == "ERROR"
    assert ending(world) == ("ERROR", "unhealthy")
    assert [(note.reason, note.health) for note in world.notes] == [("health", "healthy"), ("health", "unhealthy")]
    assert_nothing_is_left(world)


async def test_an_ill_container_is_started_again_by_its_policy(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, restart_policy="on-failure") as life:
        await life.assign()
        await life.runs(world)
        await _tell_health(life, "unhealthy")
        await life.runs(world, attempt=1)
        await life.exit(0, attempt=1)
        assert await life.handle.result() == "TERMINATED"
    assert statuses(world) == [("RESTARTING", "unhealthy")]


async def test_a_resize_changes_every_container_and_then_the_ledger(temporal: WorkflowEnvironment) -> None:
    world = World(reserved=Reserved(before={"cpu": 1000}))
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("resize", Resize(LARGER, "user:ada"))
        assert (answer.done, answer.data["slots"]) == (True, LARGER)
        assert set(world.limits) == {life.kernel_id(0), life.kernel_id(1)}
        assert [(one.slots, one.reason) for one in world.settled] == [(LARGER, "resized")]
        await life.exit(0)
        await life.handle.result()
    assert_nothing_is_left(world)


async def test_a_resize_that_the_ledger_refuses_changes_nothing(temporal: WorkflowEnvironment) -> None:
    refused = Answer(False, "no-room", "asked 64 cores, n1 has 2 free")
    world = World(reserved=Reserved(refused=refused))
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        assert await life.ask("resize", Resize(LARGER, "user:ada")) == refused
        assert (world.limits, world.settled) == ({}, [])
        await life.exit(0)
        await life.handle.result()


async def test_a_resize_that_one_node_refuses_is_undone_on_the_others(temporal: WorkflowEnvironment) -> None:
    world = World(reserved=Reserved(before={"cpu": 1000}), update_refused_on="k1-")
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("resize", Resize(LARGER, "user:ada"))
        assert (answer.done, answer.code, answer.message) == (False, "update-refused", "uses 2 GB")
        assert world.limits[life.kernel_id(0)] == {"cpu": 1000}
        assert [(one.slots, one.reason) for one in world.settled] == [({"cpu": 1000}, "resize-refused")]
        await life.exit(0)
        await life.handle.result()
    assert_nothing_is_left(world)


async def test_a_resize_that_needs_a_restart_is_one(temporal: WorkflowEnvironment) -> None:
    world = World(reserved=Reserved(restart=True))
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        assert (await life.ask("resize", Resize(LARGER, "user:ada"))).data["restarted"] is True
        assert world.specs[life.kernel_id(0)].slots == LARGER
        await life.exit(0, attempt=1)
        await life.handle.result()
    assert_nothing_is_left(world)


async def test_a_resize_without_room_goes_on_elsewhere(temporal: WorkflowEnvironment) -> None:
    world = World(reserved=Reserved(elsewhere=True))
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("resize", Resize(LARGER, "user:ada", move=True))
        assert (answer.done, answer.data["moved"]) == (True, True)
        await world.requeued.wait()
        assert (world.requeues[0].reason, world.requeues[0].slots) == ("resized", LARGER)
        await life.handle.signal("cancel", STOP)
        await life.handle.result()


async def test_what_is_asked_when_the_end_comes_is_answered(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        await life.exit(0)
        answer = await life.ask("restart", Restart("user:ada"))
        assert (answer.done, answer.code) in [(False, "session-ended"), (False, "session-not-running")]
        await life.handle.result()


async def test_a_longer_life_ends_later(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, lifetime_s=100.0) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("extend", Extend(3600.0, "user:ada"))
        assert answer.data["lifetime_s"] == 3700.0
        await life.handle.result()
        assert 3700 <= await lived_s(life) < 3800
    assert ending(world) == ("TERMINATED", "lifetime-exceeded")
    assert [one.lifetime_s for one in world.prolonged] == [3700.0]


async def test_a_session_is_idle_when_all_its_kernels_are(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world, kernels=2) as life:
        await life.assign()
        await life.runs(world)
        for stage, kernel in [("warned", 0), ("warned", 1), ("idle", 0), ("active", 0), ("warned", 0), ("idle", 0)]:
            await life.idle(stage, kernel=kernel)
        await life.idle("idle", kernel=1)
        await life.handle.result()
    assert ending(world) == ("TERMINATED", "idle-timeout")
    assert [note.message for note in world.notes] == ["warned: CPU 0.1 %", "is used again", "warned: CPU 0.1 %"]
    assert_nothing_is_left(world)


async def test_an_extended_session_is_stopped_for_idleness_when_that_is_over(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        await life.ask("extend", Extend(3600.0, "user:ada"))
        await life.idle("idle")
        await life.handle.result()
        assert 3600 <= await lived_s(life) < 3700
    assert ending(world) == ("TERMINATED", "idle-timeout")


async def test_a_dry_run_says_what_it_would_do(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        await life.idle("warned", dry_run=True)
        await life.idle("idle", dry_run=True)
        assert (await life.ask("restart", Restart("user:ada"))).done
        await life.exit(0, attempt=1)
        await life.handle.result()
    assert ending(world) == ("TERMINATED", "self-terminated")
    assert world.notes[-1].message.startswith("would be stopped now")


async def test_a_container_becomes_an_image_and_goes_on(temporal: WorkflowEnvironment) -> None:
    world = World()
    async with a_life(temporal, world) as life:
        await life.assign()
        await life.runs(world)
        answer = await life.ask("commit", Commit("mine:1", "user:ada"))
        assert (answer.done, answer.data["image"], answer.data["bytes"]) == (True, "mine:1", 7)
        await life.exit(0)
        await life.handle.result()
    assert_nothing_is_left(world)
