"""A node that is cut off stops what starts elsewhere, by itself, and says afterwards that it was no end of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_worker.fence import BEAT_S, Fence
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.domain.session import NodeLossPolicy
from tests.agent.specs import a_spec

AFTER_S = 20.0


class Cut:
    """A fence with a clock of its own, and two sessions: one that moves and one that does not."""

    def __init__(self, runtime: SimulatedRuntime, folder: Path) -> None:
        self.time = 1000.0
        self.runtime = runtime
        self._file = folder / "fenced.json"
        self.moves, self.stays = a_spec(on_node_loss=NodeLossPolicy.REQUEUE), a_spec()
        self.restart_agent()

    def restart_agent(self) -> None:
        self.fence = Fence(self.runtime, self._file, clock=lambda: self.time)

    async def begin(self) -> None:
        for spec in (self.moves, self.stays):
            await self.runtime.create(spec)

    async def after(self, seconds: float, *, reached: bool) -> None:
        self.time += seconds
        await self.fence.hold(self.time if reached else None, after_s=AFTER_S)

    async def states(self) -> tuple[str, str]:
        """Of the one that moves, and of the other."""
        seen = {one.kernel_id: one for one in self.fence.marked(await self.runtime.containers())}
        moves, stays = seen[self.moves.kernel_id], seen[self.stays.kernel_id]
        assert not stays.fenced
        return "fenced" if moves.fenced else moves.state, stays.state


@pytest.fixture
async def cut(simulated_runtime: SimulatedRuntime, tmp_path: Path) -> Cut:
    made = Cut(simulated_runtime, tmp_path)
    await made.begin()
    return made


async def test_it_stops_what_moves_when_the_control_plane_may_start_it_elsewhere_and_nothing_before(cut: Cut) -> None:
    await cut.after(1, reached=True)
    # The last heartbeat may be 5 s older than the last contact; nothing starts elsewhere until 25 s after it.
    await cut.after(AFTER_S - BEAT_S, reached=False)
    assert await cut.states() == ("running", "running")
    await cut.after(0.5, reached=False)
    assert await cut.states() == ("fenced", "running")
    await cut.after(1, reached=True)
    assert await cut.states() == ("fenced", "running")
    assert cut.fence.has_stopped(cut.moves.kernel_id, 0)


async def test_a_cut_that_heals_in_time_stops_nothing(cut: Cut) -> None:
    for _ in range(5):
        await cut.after(AFTER_S - BEAT_S, reached=False)
        await cut.after(0, reached=True)
    assert await cut.states() == ("running", "running")


async def test_an_agent_that_was_itself_away_for_so_long_has_been_cut_off_too(cut: Cut) -> None:
    """Stopped, or its machine asleep: no try ever failed."""
    await cut.after(1, reached=True)
    await cut.after(3600, reached=True)
    assert await cut.states() == ("fenced", "running")


async def test_what_was_stopped_is_known_to_the_next_process_and_forgotten_with_its_container(cut: Cut) -> None:
    await cut.after(60, reached=False)
    cut.restart_agent()
    assert await cut.states() == ("fenced", "running")
    [gone] = [one for one in await cut.runtime.containers() if one.kernel_id == cut.moves.kernel_id]
    await cut.runtime.remove(gone)
    cut.fence.marked(await cut.runtime.containers())
    assert not cut.fence.has_stopped(cut.moves.kernel_id, 0)


async def test_while_the_runtime_is_away_contact_does_not_count_until_they_are_stopped(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> list[object]:
        raise OSError("connection refused")

    with monkeypatch.context() as patched:
        patched.setattr(cut.runtime, "requeued_elsewhere", away)
        await cut.after(60, reached=True)
    assert await cut.states() == ("running", "running")
    await cut.after(1, reached=True)
    assert await cut.states() == ("fenced", "running")


async def test_an_agent_that_died_before_the_kill_lets_it_go_on_when_it_is_back_in_time(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(container: object, grace_s: float) -> None:
        raise OSError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(cut.runtime, "stop", dies)
        await cut.after(60, reached=False)
    assert cut.fence.has_stopped(cut.moves.kernel_id, 0)
    cut.restart_agent()
    await cut.after(1, reached=True)
    assert not cut.fence.has_stopped(cut.moves.kernel_id, 0)
    assert await cut.states() == ("running", "running")
