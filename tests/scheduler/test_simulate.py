"""The queue played forward, recorded passes played again."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings

from moorage.scheduler.decide import decide
from moorage.scheduler.record import from_plain, to_plain
from moorage.scheduler.simulate import (
    Timeline,
    expected_start,
    replay,
    simulate,
    with_jobs,
    with_limits,
    without_nodes,
)
from moorage.scheduler.snapshot import (
    Decisions,
    Owner,
    Policy,
    PreemptionMode,
    RunningKernel,
    RunningSession,
    Scope,
    Snapshot,
    TenantState,
    WaitingSession,
)
from tests.scheduler import worlds
from tests.support.builders import GIB, a_node, a_waiting

DAY = 86_400.0


def a_day(policy: Policy, *, weights: dict[str, float], users: int = 3) -> Timeline:
    """A day on 10 nodes of 16 cores; three projects always have more to run than there is room."""
    chance = random.Random(7)
    arrivals, lasts = [], {}
    for number in range(3000):
        project = f"p{number % 3}"
        session = a_waiting(
            f"s{number:05}",
            cpu=chance.choice((1000, 2000, 4000)),
            mem=GIB,
            submitted=number * DAY / 6000,
            user=f"u{number % users}",
            project=project,
            domain="d",
            time_limit_s=7200.0,
        )
        arrivals.append(session)
        lasts[session.session_id] = chance.uniform(3600, 7200)
    nodes = tuple(a_node(f"n{number}", cpu=16_000, mem=128 * GIB) for number in range(10))
    tenants = tuple(TenantState(Scope.PROJECT, name, weight=weight) for name, weight in weights.items())
    snapshot = Snapshot(0.0, nodes, (), tenants=tenants)
    return simulate(snapshot, policy, arrivals=arrivals, durations=lasts, until=DAY)


def part_of(timeline: Timeline, project: str) -> float:
    used: dict[str, float] = defaultdict(float)
    for owner, slots in timeline.used.items():
        used[owner.project] += slots["cpu"]
    return used[project] / sum(used.values())


@pytest.mark.parametrize("order", worlds.ORDER_NAMES)
def test_a_day_of_arrivals_keeps_the_nodes_busy(order: str) -> None:
    timeline = a_day(Policy(order), weights={})
    assert timeline.utilisation["cpu"] > 0.9
    assert len(timeline.starts) + len(timeline.waiting) == 3000
    assert all(start.waited_s >= 0 for start in timeline.starts)


def test_shares_converge_to_weights_under_fair_share() -> None:
    """Weights 2, 1 and 1, all with work all day: a half, a quarter, a quarter, within 2 %."""
    timeline = a_day(Policy("fair-share"), weights={"p0": 2.0, "p1": 1.0, "p2": 1.0})
    assert part_of(timeline, "p0") == pytest.approx(0.5, abs=0.02)
    assert part_of(timeline, "p1") == pytest.approx(0.25, abs=0.02)
    assert part_of(timeline, "p2") == pytest.approx(0.25, abs=0.02)


def busy(*waiting: WaitingSession, limit: float | None = 1000.0) -> Snapshot:
    """Now is 100; a node whose four cores have been in use for 100 s."""
    kernel = RunningKernel("k-r", "n1", {"cpu": 4000, "mem": 0})
    running = (RunningSession("r", (kernel,), 0.0, Owner("bob"), time_limit_s=limit),)
    return Snapshot(100.0, (a_node(used_cpu=4000),), waiting, running)


def test_a_session_starts_when_the_one_before_it_ends() -> None:
    timeline = simulate(busy(a_waiting("s", submitted=50.0)), Policy(), durations={"r": 300.0, "s": 10.0}, until=1e6)
    assert (timeline.started("s"), timeline.ends) == (300.0, {"r": 300.0, "s": 310.0})
    assert timeline.starts[0].waited_s == 250.0


def test_nobody_outlives_the_time_limit() -> None:
    assert simulate(busy(), Policy(), durations={"r": 5000.0}, until=1e6).ends == {"r": 1000.0}


def test_the_expected_start_follows_past_run_times() -> None:
    """Past sessions ran 150, 200 or 400 s and this one ran 100 s: it has 50, 100 or 300 s to go."""
    found = expected_start(busy(a_waiting("s")), Policy(), "s", [50.0, 150.0, 200.0, 400.0], seed=1, samples=50)
    assert found is not None
    assert found[0] in (50.0, 100.0)
    assert found[1] == 300.0
    again = expected_start(busy(a_waiting("s")), Policy(), "s", [400.0, 150.0, 200.0, 50.0], seed=1, samples=50)
    assert again == found


def test_what_will_not_start_has_no_expected_start() -> None:
    assert expected_start(busy(a_waiting("s", cpu=9000)), Policy(), "s", [10.0], seed=1, samples=3) is None


def test_what_if_a_node_were_gone_or_jobs_came_or_limits_changed() -> None:
    snapshot = Snapshot(100.0, (a_node("n1"), a_node("n2")), (a_waiting("s", cpu=3000, user="ada"),))
    lasts = {"s": 10.0, "x": 10.0}

    def start(what_if: Snapshot) -> float | None:
        return simulate(what_if, Policy("fifo"), durations=lasts, until=1e4).started("s")

    assert start(snapshot) == 100.0
    first = a_waiting("x", cpu=3000, submitted=-1.0)
    assert start(with_jobs(without_nodes(snapshot, ["n2"]), [first])) == 110.0
    assert start(with_limits(snapshot, [TenantState(Scope.USER, "ada", max_sessions=0)])) is None


def test_preempted_sessions_wait_again() -> None:
    policy = Policy("fifo", preemption=PreemptionMode.REQUEUE)
    low = a_waiting("low", cpu=4000, mem=0)
    high = a_waiting("high", cpu=4000, mem=0, submitted=200.0, job_priority=1)
    snapshot = Snapshot(0.0, (a_node(),), (low,))
    timeline = simulate(snapshot, policy, arrivals=[high], durations={"low": 500.0, "high": 50.0}, until=1e4)
    assert timeline.stopped == {"low": 200.0}
    assert [(one.session_id, one.at) for one in timeline.starts] == [("low", 0.0), ("high", 200.0), ("low", 250.0)]


@settings(max_examples=40, deadline=None)
@given(worlds.snapshots(), worlds.policies)
def test_a_recorded_pass_decided_again_gives_the_same(snapshot: Snapshot, policy: Policy) -> None:
    kept = json.loads(json.dumps([to_plain(snapshot), to_plain(policy), to_plain(decide(snapshot, policy))]))
    read = (from_plain(Snapshot, kept[0]), from_plain(Policy, kept[1]), from_plain(Decisions, kept[2]))
    assert read == (snapshot, policy, decide(snapshot, policy))
    [shift] = replay([read])
    assert (shift.earlier, shift.later, shift.elsewhere) == ((), (), ())


def test_another_policy_shows_who_starts_earlier_and_who_later() -> None:
    snapshot = Snapshot(100.0, (a_node(cpu=1000),), (a_waiting("old", submitted=1), a_waiting("new", submitted=2)))
    recorded = (snapshot, Policy("fifo"), decide(snapshot, Policy("fifo")))
    [shift] = replay([recorded], replace(Policy(), order="lifo"))
    assert (shift.earlier, shift.later) == (("new",), ("old",))


def test_a_field_that_is_not_known_is_refused() -> None:
    with pytest.raises(TypeError, match="Policy has no field colour"):
        from_plain(Policy, {"colour": "red"})
