"""For how long a container has been idle, when that is told, and what takes it back."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import pytest

from agent_worker.idle_watch import WARNING_FILE, IdleWatch
from agent_worker.idleness import Idleness, Use
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.activities import IdleReport
from moorage.domain.idle import IdlePolicy, IdleStage
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec

HOUR = 3600.0
POLICY = IdlePolicy(HOUR, cpu_percent=5.0, device_percent=5.0, grace_s=300.0)
QUIET: Use = {"cpu_percent": 0.4}
BUSY: Use = {"cpu_percent": 60.0}


class Count:
    """An Idleness, fed each five seconds as the meter does, whose stages are told as they come."""

    def __init__(self, policy: IdlePolicy = POLICY, *, devices: int = 0, inherited: bool = False) -> None:
        self.idleness = Idleness(policy, devices=devices, inherited=inherited)
        self.clock = 1000.0
        self.told: list[tuple[IdleStage, float]] = []

    def feed(self, use: Use, seconds: float, *, every_s: float = 5.0) -> list[IdleStage]:
        """The stages that were told meanwhile."""
        before = len(self.told)
        for _ in range(round(seconds / every_s)):
            self.clock += every_s
            self.idleness.see(use, self.clock)
            if (stage := self.idleness.stage(self.clock)) is not None:
                self.idleness.told(stage, self.clock)
                self.told.append((stage, self.clock))
        return [stage for stage, _ in self.told[before:]]


def test_what_is_below_every_threshold_is_warned_and_after_the_grace_period_idle() -> None:
    count = Count()
    assert count.feed(QUIET, HOUR - 60) == []
    assert count.feed(QUIET, 120) == [IdleStage.WARNED]
    assert count.feed(QUIET, 200) == []
    assert count.feed(QUIET, 200) == [IdleStage.IDLE]
    (_, warned_at), (_, idle_at) = count.told
    assert HOUR <= warned_at - 1000 <= HOUR + 70
    assert 300 <= idle_at - warned_at <= 365


def test_a_moment_of_work_is_no_use_and_a_minute_of_it_is() -> None:
    count = Count()
    for _ in range(70):
        count.feed(QUIET, 55)
        count.feed({"cpu_percent": 30.0}, 5)  # 2.9 % of a minute
    assert count.told[0][0] is IdleStage.WARNED
    assert count.feed(BUSY, 60) == [IdleStage.ACTIVE]
    assert count.idleness.idle_s(count.clock) is None


def test_work_that_begins_in_the_last_minute_of_grace_is_waited_for() -> None:
    count = Count(replace(POLICY, grace_s=270.0))
    count.feed(QUIET, HOUR + 10)
    assert count.told[-1][0] is IdleStage.WARNED
    count.feed(QUIET, 255)
    assert count.feed(BUSY, 120) == [IdleStage.ACTIVE]


@pytest.mark.parametrize(
    "unknown",
    [
        {"cpu_percent": None},
        {"cpu_percent": 0.0, "device_percent": None},
        {},
    ],
    ids=str,
)
def test_what_is_unknown_is_not_idle(unknown: Use) -> None:
    assert Count(devices=1).feed(unknown, 3 * HOUR) == []


def test_a_sample_that_is_missed_changes_nothing_and_a_longer_gap_begins_the_count_anew() -> None:
    count = Count()
    count.feed(QUIET, HOUR / 2)
    count.feed({"cpu_percent": None}, 20)
    assert count.idleness.idle_s(count.clock) is not None
    count.feed({"cpu_percent": None}, 20)
    assert count.idleness.idle_s(count.clock) is None
    count.feed(QUIET, 60)
    count.clock += 3600  # nobody looked
    count.feed(QUIET, 30)
    assert count.idleness.idle_s(count.clock) is None
    assert count.told == []


def test_a_warning_is_taken_back_when_its_use_is_not_known_any_more() -> None:
    count = Count()
    count.feed(QUIET, HOUR + 60)
    assert count.feed({"cpu_percent": None}, 60) == [IdleStage.ACTIVE]
    assert count.feed(QUIET, HOUR - 60) == []


def test_one_busy_device_keeps_a_session_whose_processors_are_idle() -> None:
    count = Count(devices=2)
    assert count.feed({"cpu_percent": 0.1, "device_percent": 80.0}, 2 * HOUR) == []
    assert count.feed({"cpu_percent": 0.1, "device_percent": 1.0}, HOUR + 500) == [IdleStage.WARNED, IdleStage.IDLE]


def test_without_devices_their_threshold_is_none() -> None:
    assert Count().feed(QUIET, HOUR + 60) == [IdleStage.WARNED]
    only_devices = IdlePolicy(HOUR, device_percent=5.0)
    assert Count(only_devices).feed(QUIET, 3 * HOUR) == [], "nothing of it is measured"


def test_the_network_counts_where_the_policy_says_so() -> None:
    policy = IdlePolicy(HOUR, cpu_percent=5.0, net_bps=1000.0)
    assert Count(policy).feed({"cpu_percent": 0.1, "net_bps": 5000.0}, 2 * HOUR) == []
    assert Count(policy).feed({"cpu_percent": 0.1, "net_bps": 50.0}, HOUR + 60) == [IdleStage.WARNED]


def test_each_change_is_told_once() -> None:
    count = Count()
    assert count.feed(QUIET, 3 * HOUR) == [IdleStage.WARNED, IdleStage.IDLE]
    assert count.feed(BUSY, HOUR) == [IdleStage.ACTIVE]


def test_a_warning_that_did_not_arrive_begins_no_grace_period() -> None:
    count = Count()
    for _ in range(901):  # a minute has just been judged
        count.clock += 5
        count.idleness.see(QUIET, count.clock)
    assert count.idleness.stage(count.clock) is IdleStage.WARNED
    assert count.idleness.stops_in_s(count.clock) == 300.0


class Node:
    """A watch over a simulated runtime; its time is a number that passes when the test says so."""

    def __init__(self, file: Path) -> None:
        self.clock, self.set_s = 0.0, 0.0
        self.uses: dict[str, float] = {}
        self.heard: list[IdleReport] = []
        self.deaf = False
        self.file = file
        self.start()

    def start(self) -> None:
        """The agent, or its next process."""
        self.runtime = SimulatedRuntime(self.file)
        self.meter = Meter(self.runtime, self.runtime.devices, clock=lambda: self.clock, now=lambda: self.now())
        self.watch = IdleWatch(
            self.runtime, self.meter, last_use=self.uses.get, clock=lambda: self.clock, now=lambda: self.now()
        )

    def now(self) -> float:
        return 1_700_000_000 + self.clock + self.set_s

    async def tell(self, session_id: str, report: IdleReport) -> None:
        if self.deaf:
            raise OSError("Temporal is away")
        self.heard.append(report)

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock += 1
            await self.meter.look()
            await self.watch.look(self.tell)

    async def told(self, seconds: float) -> list[str]:
        before = len(self.heard)
        await self.pass_time(seconds)
        return [one.stage for one in self.heard[before:]]

    def warning(self, spec: KernelSpec) -> str | None:
        files = self.runtime._files[f"sim-{spec.kernel_id}-{spec.attempt}"]
        return base64.b64decode(files[WARNING_FILE]).decode() if WARNING_FILE in files else None


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    node = Node(tmp_path / "containers.json")
    # The simulated counters grow by the time of day.
    monkeypatch.setattr("agent_worker.runtimes.simulated.time.time", lambda: 1_700_000_000 + node.clock)
    return node


def a_quiet_one(policy: IdlePolicy = IdlePolicy(120.0, cpu_percent=5.0, grace_s=60.0)) -> KernelSpec:
    return replace(a_spec(MOORAGE_SIM_CPU="0.004"), idle=policy, slots={"cpu": 2000})


async def test_the_session_is_warned_with_numbers_in_a_file_and_told_when_it_is_used_again(node: Node) -> None:
    spec = a_quiet_one()
    await node.runtime.create(spec)
    assert await node.told(100) == ["active"], "the first look found it: nobody knows what was told before"
    assert await node.told(50) == ["warned"]
    report = node.heard[-1]
    assert (report.kernel_id, report.attempt, report.dry_run) == (spec.kernel_id, 0, False)
    until = "22:16 UTC"
    words = f"CPU 0.4 % of 2 cores (below 5 %) for 2 min; it is stopped at {until} unless it is used;"
    assert report.message.startswith(words), report.message
    assert report.message.endswith("`moor extend a-test 2h` keeps it")
    assert node.warning(spec) == f"{report.message}\n"

    node.uses[spec.kernel_id] = node.clock
    assert await node.told(2) == ["active"]
    assert node.warning(spec) == ""
    assert await node.told(100) == []
    assert await node.told(160) == ["warned", "idle"]
    assert "CPU 0.4 % of 2 cores (below 5 %) for 3 min" in node.heard[-1].message


async def test_a_restart_of_the_agent_begins_the_count_anew_and_ends_it_all_the_same(node: Node) -> None:
    spec = a_quiet_one()
    await node.runtime.create(spec)
    await node.pass_time(150)
    assert node.heard[-1].stage == "warned"
    node.start()
    assert await node.told(100) == ["active"]
    assert await node.told(140) == ["warned", "idle"]


async def test_a_clock_that_was_set_begins_the_count_anew(node: Node) -> None:
    await node.runtime.create(a_quiet_one())
    await node.pass_time(100)
    node.set_s = 3600
    node.heard.clear()
    assert await node.told(100) == []
    assert await node.told(60) == ["warned"]


async def test_while_nothing_can_be_told_nobody_is_stopped(node: Node) -> None:
    await node.runtime.create(a_quiet_one())
    await node.pass_time(10)
    node.deaf = True
    await node.pass_time(300)
    node.deaf = False
    node.heard.clear()
    assert await node.told(60) == ["warned"]
    assert await node.told(70) == ["idle"]


async def test_a_dry_run_tells_and_leaves_no_file(node: Node) -> None:
    spec = a_quiet_one(IdlePolicy(120.0, cpu_percent=5.0, grace_s=60.0, dry_run=True))
    await node.runtime.create(spec)
    await node.pass_time(300)
    assert [(one.stage, one.dry_run) for one in node.heard[1:]] == [("warned", True), ("idle", True)]
    assert "it would be stopped at" in node.heard[1].message
    assert node.warning(spec) is None


async def test_only_containers_with_a_policy_are_watched_for_as_long_as_they_are_there(node: Node) -> None:
    await node.runtime.create(a_spec(MOORAGE_SIM_CPU="0.001"))
    await node.pass_time(5)
    assert node.watch.seen() == []
    spec = a_quiet_one()
    await node.runtime.create(spec)
    await node.pass_time(61 + 30)
    [seen] = node.watch.seen(spec.session_id)
    assert (seen.kernel_id, seen.stage, seen.stops_in_s is not None) == (spec.kernel_id, "active", True)
    assert seen.low == "CPU 0.4 % of 2 cores (below 5 %)"
    [container] = [one for one in await node.runtime.containers() if one.kernel_id == spec.kernel_id]
    await node.runtime.remove(container)
    node.meter.end(spec.kernel_id, 0)
    await node.pass_time(1)
    assert node.watch.seen() == []


async def test_a_runtime_that_is_away_ends_no_watch(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = asyncio.Event()

    async def away(label: str) -> object:
        looked.set()
        raise OSError("away")

    monkeypatch.setattr(node.runtime, "labelled", away)
    task = asyncio.create_task(node.watch.run(node.tell))
    await asyncio.wait_for(looked.wait(), 5)
    assert not task.done()
    task.cancel()
