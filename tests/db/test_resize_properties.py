"""Resizes and restarts in place, in any order with all else that happens to a session: the ledger stays true."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from moorage.db import resize, running
from moorage.db.engine import connect
from moorage.domain.errors import MoorageError
from moorage.domain.resources import Slots
from moorage.domain.session import TERMINAL, Ending, Reason
from tests.db.test_ledger_properties import SEAL, Ledger, cores, endings, gpus, memory, names, which
from tests.support.builders import GIB

behind = st.sampled_from([0, 0, 0, 1])
wishes = st.builds(
    lambda cpu, mem, gpu: {"cpu": cpu, "mem": mem, **({"cuda.device": gpu} if gpu else {})}, cores, memory, gpus
)


@dataclass
class Running(Ledger):
    """Sessions that run, and what their workflows may ask."""

    resizing: dict[str, tuple[Slots, Slots]] = field(default_factory=dict)  # before and after, of the last one
    reserved: int = 0

    async def begin(self) -> None:
        self.sessions.clear()
        self.resizing.clear()
        await super().begin()
        await self.submit(500, GIB, gpu=1)
        await self.schedule()
        for number in range(len(self.sessions)):
            await self.start(number, 0)

    async def reserve(self, number: int, late: int, slots: Slots) -> None:
        session_id, before = await self._one(number)
        try:
            found = await resize.reserve(self.engine, session_id, before.attempt - late, slots, actor="ada", move=False)
        except MoorageError:
            return
        assert not late
        self.reserved += 1
        if before.status != "RESIZING":
            self.resizing[session_id] = (found.before, slots)

    async def settle(self, number: int, late: int, *, undone: bool) -> None:
        session_id, before = await self._one(number)
        old, new = self.resizing.get(session_id, ({}, {}))
        settled = await resize.settle(
            self.engine,
            session_id,
            before.attempt - late,
            old if undone else new,
            reason=Reason.RESIZED,
            message="",
            actor="workflow",
        )
        assert not (settled and (late or before.status in TERMINAL))

    async def place_again(self, number: int, late: int) -> None:
        """With what was reserved, if anything was."""
        session_id, before = await self._one(number)
        wanted = self.resizing[session_id][1] if before.status == "RESIZING" and session_id in self.resizing else {}
        _, kernels = await running.place_again(self.engine, session_id, before.attempt - late, SEAL, slots=wanted)
        assert all(sum(one.devices.values()) == one.slots.get("cuda.device", 0) for one in kernels)
        assert not wanted or late or all(one.slots["cpu"] == wanted["cpu"] for one in kernels)


class AnyOrder(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, running: Running) -> None:
        super().__init__()
        self._runner = runner
        self._running = running

    def _do(self, *steps: Coroutine[Any, Any, None]) -> None:
        """Several at once, each on a connection of its own."""

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(step)

        self._runner.run(together())

    @initialize()
    def begin(self) -> None:
        self._do(self._running.begin())

    @rule(number=which, late=behind, slots=wishes)
    def reserve(self, number: int, late: int, slots: Slots) -> None:
        self._do(self._running.reserve(number, late, slots))

    @rule(number=which, late=behind, undone=st.booleans())
    def settle(self, number: int, late: int, undone: bool) -> None:
        self._do(self._running.settle(number, late, undone=undone))

    @rule(number=which, late=behind)
    def place_again(self, number: int, late: int) -> None:
        self._do(self._running.place_again(number, late))

    @rule(number=which, slots=wishes, undone=st.booleans())
    def a_whole_resize(self, number: int, slots: Slots, undone: bool) -> None:
        self._do(self._running.reserve(number, 0, slots))
        self._do(self._running.check())
        self._do(self._running.settle(number, 0, undone=undone))

    @rule(number=which, slots=wishes)
    def a_whole_restart(self, number: int, slots: Slots) -> None:
        self._do(self._running.reserve(number, 0, slots))
        self._do(self._running.check())
        self._do(self._running.place_again(number, 0))
        self._do(self._running.start(number, 0))

    @rule(number=which, late=behind)
    def start(self, number: int, late: int) -> None:
        self._do(self._running.start(number, late))

    @rule(number=which, fenced=st.booleans())
    def requeue(self, number: int, fenced: bool) -> None:
        self._do(self._running.requeue(number, 0, fenced=fenced))

    @rule(number=which, ending=endings, fenced=st.booleans())
    def finish(self, number: int, ending: Ending, fenced: bool) -> None:
        self._do(self._running.finish(number, ending, fenced=fenced))

    @rule(cpu=cores, mem=memory, kernels=st.integers(1, 2), gpu=gpus)
    def another_comes_and_runs(self, cpu: int, mem: int, kernels: int, gpu: int) -> None:
        self._do(self._running.submit(cpu, mem, kernels, gpu))
        self._do(self._running.schedule())
        self._do(self._running.start(len(self._running.sessions) - 1, 0))

    @rule(name=names, cpu=cores, mem=memory)
    def a_node_shrinks_or_comes_back(self, name: str, cpu: int, mem: int) -> None:
        self._do(self._running.come_back(name, cpu, mem))

    @rule(number=which, slots=wishes)
    def a_pass_while_a_session_grows(self, number: int, slots: Slots) -> None:
        self._do(self._running.schedule(), self._running.reserve(number, 0, slots))

    @rule(number=which, slots=wishes, ending=endings, fenced=st.booleans())
    def an_end_while_a_session_grows(self, number: int, slots: Slots, ending: Ending, fenced: bool) -> None:
        self._do(self._running.reserve(number, 0, slots), self._running.finish(number, ending, fenced=fenced))

    @rule(number=which, fenced=st.booleans())
    def a_requeue_while_it_starts_again(self, number: int, fenced: bool) -> None:
        self._do(self._running.place_again(number, 0), self._running.requeue(number, 0, fenced=fenced))

    @invariant()
    def all_holds(self) -> None:
        self._do(self._running.check())


def test_in_any_order_of_resizes_nothing_is_given_twice_and_nothing_is_lost(database_url: str) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        engine = connect(database_url, pool_size=4)
        running = Running(engine)
        try:
            run_state_machine_as_test(
                cast(type[AnyOrder], partial(AnyOrder, runner, running)),
                settings=settings(
                    max_examples=25,
                    stateful_step_count=15,
                    deadline=None,
                    phases=[Phase.generate],  # with Phase.shrink too, a failure is told in its fewest steps
                    suppress_health_check=list(HealthCheck),
                ),
            )
            assert running.reserved > 10, "the test resizes"
        finally:
            runner.run(engine.dispose())
