"""When a container counts as well, by a clock that tests wind themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

from agent_worker.probes import Clock, Prober
from agent_worker.runtimes.contract import Checked, CreateRefused, ExecResult, GoesOn, Runtime
from moorage.contracts.activities import HealthChange
from moorage.domain.health import HealthCheck, Probe
from moorage.domain.node import ContainerSeen

WELL, ILL = ExecResult(0, "fine\n", ""), ExecResult(1, "checking\n", "warming up\nconnection refused\n")
COMMAND = Probe(["check"], every_s=10, timeout_s=5, failures=3)
PORT = Probe(port=8080, every_s=10, timeout_s=5, failures=2)


class WoundClock(Clock):
    """A sleep takes no time, and is counted."""

    def __init__(self) -> None:
        self._now = 1000.0

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self._now += seconds
        await asyncio.sleep(0)


@dataclass
class Containers:
    """Answers in turn, the last one of them for ever; when it was asked, by the clock."""

    clock: Clock
    answers: list[ExecResult | Exception] = field(default_factory=lambda: [WELL])
    ports: list[bool] = field(default_factory=lambda: [True])
    running: set[str] = field(default_factory=lambda: {"c1"})
    found: list[Checked] = field(default_factory=list)
    secrets: set[str] = field(default_factory=set)
    asked: list[float] = field(default_factory=list)
    enough: int = 1000
    at_work: int = 0
    most_at_work: int = 0
    gate: asyncio.Event | None = None
    bored: asyncio.Event = field(default_factory=asyncio.Event)

    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            await self._enough()
            if self.gate is not None:
                await self.gate.wait()
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.at_work -= 1

    async def connects(self, container: ContainerSeen, port: int, timeout_s: float) -> bool:
        await self._enough()
        return self.ports.pop(0) if len(self.ports) > 1 else self.ports[0]

    async def containers(self) -> list[ContainerSeen]:
        return [a_container(name) for name in self.running]

    async def checked(self) -> list[Checked]:
        return self.found

    async def given(self, container: ContainerSeen) -> set[str]:
        return self.secrets

    async def _enough(self) -> None:
        """What is asked for ever must not keep the test busy for ever."""
        self.asked.append(self.clock.now())
        if len(self.asked) >= self.enough:
            self.bored.set()
            await asyncio.Event().wait()


def a_container(name: str = "c1", attempt: int = 0) -> ContainerSeen:
    return ContainerSeen("s1", f"kernel of {name}", attempt, name, "running")


@dataclass
class Node:
    clock: WoundClock
    containers: Containers
    prober: Prober
    told: asyncio.Queue[HealthChange]

    def begin(self, check: HealthCheck, name: str = "c1", attempt: int = 0) -> None:
        self.prober.begin(Checked(a_container(name, attempt), check, 0.0))

    async def hears(self) -> tuple[str, str]:
        async with asyncio.timeout(10):
            change = await self.told.get()
        return change.health, change.message

    async def bored(self) -> None:
        async with asyncio.timeout(10):
            await self.containers.bored.wait()


@asynccontextmanager
async def a_node(prepare: Callable[[Containers], None] = lambda containers: None) -> AsyncIterator[Node]:
    clock = WoundClock()
    containers, told = Containers(clock), asyncio.Queue[HealthChange]()
    prepare(containers)

    async def tell(session_id: str, change: HealthChange) -> None:
        assert session_id == "s1"
        told.put_nowait(change)

    prober = Prober(cast(Runtime, containers), tell, clock=clock)
    running = asyncio.create_task(prober.run())
    yield Node(clock, containers, prober, told)
    running.cancel()
    await asyncio.wait({running})


async def test_it_is_asked_each_second_until_it_answers_and_then_as_often_as_it_said() -> None:
    async with a_node() as node:
        node.containers.answers, node.containers.enough = [ILL, ILL, WELL], 6
        node.begin(HealthCheck(live=COMMAND))
        assert await node.hears() == ("healthy", "ready after 2.0 s")
        await node.bored()
        assert node.containers.asked == [1000, 1001, 1002, 1012, 1022, 1032]
        assert node.told.empty()


async def test_what_never_answers_is_told_after_its_time_with_the_last_words() -> None:
    async with a_node() as node:
        node.containers.answers = [ILL]
        node.begin(HealthCheck(start=COMMAND, start_within_s=7))
        assert await node.hears() == ("unhealthy", "not ready within 7 s: exit code 1: connection refused")
        assert node.clock.now() == 1007


async def test_only_failures_in_a_row_count() -> None:
    async with a_node() as node:
        node.containers.answers = [WELL, ILL, ILL, WELL, ILL, ILL, ILL]
        node.begin(HealthCheck(live=COMMAND))
        assert (await node.hears())[0] == "healthy"
        assert await node.hears() == ("unhealthy", "exit code 1: connection refused (3 times in a row)")
        assert len(node.containers.asked) == 7


async def test_a_port_that_closes_is_told() -> None:
    async with a_node() as node:
        node.containers.ports = [False, True, False]
        node.begin(HealthCheck(live=PORT))
        assert await node.hears() == ("healthy", "ready after 1.0 s")
        assert await node.hears() == ("unhealthy", "port 8080 accepts no connection (2 times in a row)")


async def test_a_start_probe_alone_is_asked_no_more_once_it_succeeded() -> None:
    async with a_node() as node:
        node.begin(HealthCheck(start=COMMAND))
        assert (await node.hears())[0] == "healthy"
        node.begin(HealthCheck(start=COMMAND))
        node.begin(HealthCheck(start=COMMAND), "c2")
        assert (await node.hears())[0] == "healthy"
        assert len(node.containers.asked) == 2


async def test_a_container_that_has_ended_is_not_called_ill() -> None:
    async with a_node() as node:
        node.containers.answers = [CreateRefused("it is not running")]
        node.containers.running = {"c2"}
        node.begin(HealthCheck(start=COMMAND, start_within_s=3))
        node.begin(HealthCheck(start=COMMAND, start_within_s=9), "c2")
        assert await node.hears() == ("unhealthy", "not ready within 9 s: the command can't be run: it is not running")
        assert node.told.empty()
        assert not node.prober.end("kernel of c1", 0)


async def test_a_runtime_that_is_away_says_nothing_of_the_container() -> None:
    async with a_node() as node:
        node.containers.answers = [WELL, ILL, ILL, OSError("Docker is away"), OSError("Docker is away"), WELL]
        node.containers.enough = 8
        node.begin(HealthCheck(live=COMMAND))
        assert (await node.hears())[0] == "healthy"
        await node.bored()
        assert node.told.empty()


async def test_a_command_that_hangs_is_a_failure_and_is_not_started_beside_itself() -> None:
    runs = [True, True, False]

    async def still() -> bool:
        return runs.pop(0)

    async with a_node() as node:
        node.containers.answers = [WELL, GoesOn(still), TimeoutError(), WELL]
        node.containers.enough = 5
        node.begin(HealthCheck(live=Probe(["check"], every_s=10, timeout_s=5, failures=5)))
        assert (await node.hears())[0] == "healthy"
        await node.bored()
        # Not at 1020 and 1030: the one of 1010 still ran.
        assert node.containers.asked == [1000, 1010, 1040, 1050, 1060]


async def test_the_words_are_told_without_what_the_container_was_given() -> None:
    async with a_node() as node:
        node.containers.secrets = {"hunter2", "refused"}  # a plain word is no secret
        node.containers.answers = [ExecResult(3, "", "password hunter2 \x1b[31mrefused\x1b[0m\0\n\n")]
        node.begin(HealthCheck(start=COMMAND, start_within_s=1))
        assert await node.hears() == ("unhealthy", "not ready within 1 s: exit code 3: password [hidden] refused")


async def test_ending_stops_the_checks_and_says_whether_it_was_ill() -> None:
    async with a_node() as node:
        node.containers.answers = [ILL]
        node.begin(HealthCheck(start=COMMAND, start_within_s=1), attempt=1)
        await node.hears()
        assert node.prober.end("kernel of c1", 0) is False
        assert node.prober.end("kernel of c1", 1) is True
        assert node.prober.end("kernel of c1", 1) is False
        node.containers.gate = asyncio.Event()
        node.begin(HealthCheck(start=COMMAND), attempt=2)
        assert node.prober.end("kernel of c1", 2) is False
        node.containers.gate.set()
        node.begin(HealthCheck(start=Probe(["other"])), "c2")
        assert node.told.empty()


async def test_an_agent_that_comes_back_goes_on_and_gives_a_late_one_as_many_tries_as_a_live_one() -> None:
    def back(containers: Containers) -> None:
        containers.found = [Checked(a_container(), HealthCheck(live=COMMAND, start_within_s=60), 3600)]
        containers.answers = [ILL, ILL, WELL, ILL]

    async with a_node(back) as node:
        assert await node.hears() == ("healthy", "answers")
        assert (await node.hears())[0] == "unhealthy"


async def test_few_are_checked_at_once_and_waiting_fails_none() -> None:
    async with a_node() as node:
        node.containers.gate = asyncio.Event()
        for number in range(30):
            node.begin(HealthCheck(start=COMMAND, start_within_s=1), f"c{number}")
        while node.containers.at_work < 8:
            await asyncio.sleep(0)
        node.containers.gate.set()
        assert {await node.hears() for _ in range(30)} == {("healthy", "ready after 0.0 s")}
        assert node.containers.most_at_work == 8
