"""The ledger under any order of its steps, on a real PostgreSQL: what is given never exceeds what there is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage import ssh_keys
from moorage.db import ledger, nodes, placements
from moorage.db.engine import connect
from moorage.db.invariants import INVARIANTS
from moorage.db.snapshots import View, read_snapshot
from moorage.domain.node import Device
from moorage.domain.session import TERMINAL, Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.planner import Planner
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import GIB, KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
SSH_KEY = SEAL.seal(ssh_keys.made())
NODES = ["n1", "n2"]
Step = Callable[[], Coroutine[Any, Any, None]]

which = st.integers(0, 3)
names = st.sampled_from(NODES)
cores = st.sampled_from([500, 1000, 2000, 4000])
memory = st.sampled_from([GIB, 2 * GIB, 4 * GIB])
gpus = st.sampled_from([0, 0, 1, 2])
on_the_way = st.sampled_from(
    [SessionStatus.PREPARING, SessionStatus.CREATING, SessionStatus.RESTARTING, SessionStatus.TERMINATING]
)
GPUS = [Device(f"gpu{n}", "cuda.device", numa=n) for n in range(2)]
endings = st.sampled_from(
    [
        Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 0", "SUCCESS", 0),
        Ending(SessionStatus.CANCELLED, Reason.USER_REQUESTED, "by ada"),
        Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE"),
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    status: str
    attempt: int
    held: int  # slots given to it and neither released nor fenced
    fenced: int


def by_id(rows: Iterable[Any], name: str) -> dict[str, Any]:
    return {getattr(row, name): row for row in rows}


@dataclass
class Ledger:
    """The calls that the parts of Moorage make, each with what it promises of the one session or node it is about."""

    engine: AsyncEngine
    epoch: int = 0
    sessions: list[tuple[str, str]] = field(default_factory=list)
    user: str = ""

    async def begin(self) -> None:
        async with self.engine.begin() as connection:
            tables = "transitions, allocations, kernels, sessions, agent_slots, agents, users"
            await connection.execute(text(f"TRUNCATE {tables} CASCADE"))
        self.user = await a_user(self.engine)
        self.epoch = await placements.take_epoch(self.engine, "default")
        for name in NODES:
            await nodes.register(self.engine, an_agent(name, cpu=2000, mem=4 * GIB, devices=GPUS))
        self.view = View(self.engine, "default")
        self.planner = Planner(await self.view.whole(), Policy())
        for _ in range(2):
            await self.submit(1000, GIB)
        await self.schedule()

    async def submit(self, cpu: int, mem: int, kernels: int = 1, gpu: int = 0) -> None:
        gang: dict[str, Any] = {"ssh_key": SSH_KEY, "cluster_mode": "multi-node"} if kernels > 1 else {}
        slots = {"cuda.device": gpu} if gpu else {}
        made = await a_pending_session(self.engine, self.user, cpu=cpu, mem=mem, kernels=kernels, slots=slots, **gang)
        self.sessions.append(made)

    async def offer(self, name: str, cpu: int, mem: int) -> None:
        await nodes.register(self.engine, an_agent(name, cpu=cpu, mem=mem, devices=GPUS[: cpu // 500]))

    async def schedule(self) -> None:
        decisions = decide(await read_snapshot(self.engine, "default"), Policy())
        await placements.commit_decisions(self.engine, "default", self.epoch, decisions, SEAL)

    async def hand_over(self) -> None:
        """Another scheduler takes the group; what the old one decided is refused."""
        decisions = decide(await read_snapshot(self.engine, "default"), Policy())
        old, self.epoch = self.epoch, await placements.take_epoch(self.engine, "default")
        try:
            await placements.commit_decisions(self.engine, "default", old, decisions, SEAL)
        except placements.StaleEpoch:
            return
        raise AssertionError("an old epoch could commit")

    async def move(self, number: int, to: SessionStatus, behind: int) -> None:
        session_id, before = await self._one(number)
        moved = await ledger.move(self.engine, session_id, before.attempt - behind, to)
        assert not (moved and (behind or before.status in TERMINAL))

    async def start(self, number: int, behind: int) -> None:
        session_id, before = await self._one(number)
        kernel_id = dict(self.sessions)[session_id]
        started = await ledger.record_started(
            self.engine, session_id, before.attempt - behind, {kernel_id: "c"}, "on a node"
        )
        assert not (started and behind)

    async def requeue(self, number: int, behind: int, *, fenced: bool) -> None:
        session_id, before = await self._one(number)
        if before.status == SessionStatus.PENDING:
            return  # its workflow requeues what was placed
        asked = before.attempt - behind
        attempt = await ledger.requeue(
            self.engine,
            session_id,
            asked,
            reason=Reason.NODE_LOST,
            message="lost",
            avoid="n1",
            fenced=NODES if fenced else (),
        )
        assert attempt > asked or before.status in TERMINAL

    async def finish(self, number: int, ending: Ending, *, fenced: bool) -> None:
        session_id, before = await self._one(number)
        status = await ledger.finish(self.engine, session_id, ending, actor="workflow", fenced=NODES if fenced else ())
        after = await self._row(session_id)
        assert after.status == status
        assert after.status in TERMINAL
        assert after.held == 0
        assert after.fenced >= before.fenced, "only its node frees what is fenced"
        assert before.status not in TERMINAL or before.status == status

    async def lose(self, name: str) -> None:
        await nodes.mark_lost(self.engine, name)

    async def come_back(self, name: str, cpu: int, mem: int) -> None:
        """As a node does: it registers, then reports what it still has; only what it has stays fenced."""
        await nodes.register(self.engine, an_agent(name, cpu=cpu, mem=mem, devices=GPUS))
        before = await self._fenced_on(name)
        await nodes.release_fenced(self.engine, name, before[:1])
        assert set(before[:1]) <= set(await self._fenced_on(name))
        await nodes.release_fenced(self.engine, name, [])

    async def check(self) -> None:
        async with self.engine.connect() as connection:
            for name, query in INVARIANTS.items():
                assert (await connection.execute(text(query))).scalars().all() == [], name
            assert (await connection.execute(text(OVER_CAPACITY))).all() == []
        await self.check_what_is_kept_warm()

    async def check_what_is_kept_warm(self) -> None:
        """Reading only what changed gives what reading all gives."""
        _, changes = await self.view.changes()
        self.planner.apply(changes)
        warm, cold = self.planner.snapshot(), await read_snapshot(self.engine, "default")
        assert by_id(warm.nodes, "agent_id") == by_id(cold.nodes, "agent_id")
        assert by_id(warm.waiting, "session_id") == by_id(cold.waiting, "session_id")
        assert by_id(warm.running, "session_id") == by_id(cold.running, "session_id")

    async def _one(self, number: int) -> tuple[str, Row]:
        session_id = self.sessions[number % len(self.sessions)][0]
        return session_id, await self._row(session_id)

    async def _row(self, session_id: str) -> Row:
        async with self.engine.connect() as connection:
            found = (await connection.execute(text(ROW), {"id": session_id})).one()
            return Row(found.status, found.attempt, found.held, found.fenced)

    async def _fenced_on(self, name: str) -> list[tuple[str, int]]:
        async with self.engine.connect() as connection:
            rows = await connection.execute(text(FENCED), {"agent": name})
            return [(str(row.kernel_id), row.attempt) for row in rows]


FENCED = """
    SELECT DISTINCT kernel_id, attempt FROM allocations
     WHERE agent_id = :agent AND fenced_at IS NOT NULL AND released_at IS NULL ORDER BY kernel_id, attempt"""

ROW = """
    SELECT s.status, s.attempt, count(a.slot) FILTER (WHERE a.fenced_at IS NULL) AS held,
           count(a.slot) FILTER (WHERE a.fenced_at IS NOT NULL) AS fenced
      FROM sessions s LEFT JOIN allocations a ON a.session_id = s.id AND a.released_at IS NULL
     WHERE s.id = :id GROUP BY s.id"""

# Said in other words than `moorage.db.invariants`: per node from the sessions' own wishes, not from the allocations.
OVER_CAPACITY = """
    SELECT c.agent_id, c.slot, c.used, c.capacity, w.wanted FROM agent_slots c
      LEFT JOIN LATERAL (SELECT sum((s.slots ->> c.slot)::bigint) AS wanted
           FROM sessions s JOIN kernels k ON k.session_id = s.id
          WHERE EXISTS (SELECT 1 FROM allocations a WHERE a.kernel_id = k.id AND a.attempt = s.attempt
                AND a.agent_id = c.agent_id AND a.released_at IS NULL AND a.fenced_at IS NULL)) w ON true
     WHERE c.used > c.capacity OR c.used < coalesce(w.wanted, 0) OR c.capacity <> greatest(c.offered, c.used)"""


class AnyOrder(RuleBasedStateMachine):
    def __init__(self, runner: asyncio.Runner, engine: AsyncEngine) -> None:
        super().__init__()
        self._runner = runner
        self._ledger = Ledger(engine)

    def _do(self, *steps: Coroutine[Any, Any, None]) -> None:
        """Several at once, each on a connection of its own."""

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(step)

        self._runner.run(together())

    @initialize()
    def begin(self) -> None:
        self._do(self._ledger.begin())

    @rule(cpu=cores, mem=memory, kernels=st.integers(1, 2), gpu=gpus)
    def submit(self, cpu: int, mem: int, kernels: int, gpu: int) -> None:
        self._do(self._ledger.submit(cpu, mem, kernels, gpu))

    @rule(name=names, cpu=cores, mem=memory)
    def offer_more_or_less(self, name: str, cpu: int, mem: int) -> None:
        self._do(self._ledger.offer(name, cpu, mem))

    @rule()
    def schedule(self) -> None:
        self._do(self._ledger.schedule())

    @rule()
    def hand_over(self) -> None:
        self._do(self._ledger.hand_over())

    @rule(number=which, to=on_the_way, behind=st.integers(0, 1))
    def move(self, number: int, to: SessionStatus, behind: int) -> None:
        self._do(self._ledger.move(number, to, behind))

    @rule(number=which, behind=st.integers(0, 1))
    def start(self, number: int, behind: int) -> None:
        self._do(self._ledger.start(number, behind))

    @rule(number=which, behind=st.integers(0, 1), fenced=st.booleans())
    def requeue(self, number: int, behind: int, fenced: bool) -> None:
        self._do(self._ledger.requeue(number, behind, fenced=fenced))

    @rule(number=which, ending=endings, fenced=st.booleans())
    def finish(self, number: int, ending: Ending, fenced: bool) -> None:
        self._do(self._ledger.finish(number, ending, fenced=fenced))

    @rule(name=names)
    def lose(self, name: str) -> None:
        self._do(self._ledger.lose(name))

    @rule()
    def all_come_back_at_once(self) -> None:
        self._do(*(self._ledger.come_back(name, 2000, 4 * GIB) for name in NODES))

    @rule(name=names, cpu=cores, mem=memory)
    def come_back(self, name: str, cpu: int, mem: int) -> None:
        self._do(self._ledger.come_back(name, cpu, mem))

    @rule()
    def two_passes_at_once(self) -> None:
        self._do(self._ledger.schedule(), self._ledger.schedule())

    @rule(name=names, cpu=cores, mem=memory)
    def a_pass_while_a_node_shrinks(self, name: str, cpu: int, mem: int) -> None:
        self._do(self._ledger.schedule(), self._ledger.offer(name, cpu, mem))

    @rule(name=names)
    def a_pass_while_a_node_is_lost(self, name: str) -> None:
        self._do(self._ledger.schedule(), self._ledger.lose(name))

    @rule(number=which, ending=endings)
    def a_pass_while_a_session_ends(self, number: int, ending: Ending) -> None:
        self._do(self._ledger.schedule(), self._ledger.finish(number, ending, fenced=False))

    @rule(number=which, first=endings, second=endings, fenced=st.booleans())
    def two_ends_at_once(self, number: int, first: Ending, second: Ending, fenced: bool) -> None:
        self._do(
            self._ledger.finish(number, first, fenced=fenced),
            self._ledger.finish(number, second, fenced=not fenced),
        )

    @rule(number=which, ending=endings, fenced=st.booleans())
    def an_end_while_it_starts(self, number: int, ending: Ending, fenced: bool) -> None:
        self._do(self._ledger.start(number, 0), self._ledger.finish(number, ending, fenced=fenced))

    @rule(number=which, name=names, fenced=st.booleans())
    def a_return_while_a_session_is_requeued(self, number: int, name: str, fenced: bool) -> None:
        self._do(self._ledger.come_back(name, 2000, 4 * GIB), self._ledger.requeue(number, 0, fenced=fenced))

    @invariant()
    def all_holds(self) -> None:
        self._do(self._ledger.check())


def test_in_any_order_of_steps_nothing_is_given_twice_and_nothing_is_lost(database_url: str) -> None:
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        engine = connect(database_url, pool_size=4)
        try:
            run_state_machine_as_test(
                cast(type[AnyOrder], partial(AnyOrder, runner, engine)),
                settings=settings(
                    max_examples=40,
                    stateful_step_count=20,
                    deadline=None,
                    phases=[Phase.generate],  # with Phase.shrink too, a failure is told in its fewest steps
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(engine.dispose())
