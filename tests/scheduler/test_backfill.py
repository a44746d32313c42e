"""The head of the queue: what it keeps from those behind it, and that it starts."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.scheduler.decide import decide
from moorage.scheduler.simulate import simulate
from moorage.scheduler.snapshot import (
    Cause,
    Decisions,
    Head,
    Policy,
    RunningKernel,
    RunningSession,
    Snapshot,
    WaitingSession,
)
from tests.support.builders import a_node, a_waiting


def runs(session_id: str, agent_id: str, cpu: int, limit: float | None, *, leaving: bool = False) -> RunningSession:
    kernel = RunningKernel(f"k-{session_id}", agent_id, {"cpu": cpu, "mem": 0})
    return RunningSession(session_id, (kernel,), 0.0, time_limit_s=limit, leaving=leaving)


def placed(decisions: Decisions) -> set[str]:
    return {one.session_id for one in decisions.placements}


def half_full(
    *behind: WaitingSession, limit: float | None = 100.0, head: Head = Head.EASY, skips: int = 0
) -> Decisions:
    """Now is 10. A node of 4 cores of which 2 run until 100; the head asks 3, so it can start at 100."""
    queue = (a_waiting("head", cpu=3000, mem=0, skips=skips), *behind)
    running = (runs("r", "n1", 2000, limit),)
    return decide(Snapshot(10.0, (a_node(cpu=4000, used_cpu=2000),), queue, running), Policy("fifo", head=head))


def test_the_head_is_promised_the_earliest_moment_that_time_limits_allow() -> None:
    [reservation] = half_full().reservations
    assert (reservation.session_id, reservation.agents, reservation.at) == ("head", ("n1",), 100.0)


def test_what_ends_before_the_promise_may_pass() -> None:
    assert placed(half_full(a_waiting("short", cpu=2000, mem=0, submitted=1, time_limit_s=90.0))) == {"short"}


def test_what_ends_after_the_promise_may_not() -> None:
    decisions = half_full(a_waiting("long", cpu=2000, mem=0, submitted=1, time_limit_s=91.0))
    assert placed(decisions) == set()
    assert {one.session_id: one.cause for one in decisions.refusals} == {"head": Cause.NO_ROOM, "long": Cause.RESERVED}


def test_what_uses_only_what_the_head_leaves_may_pass() -> None:
    """Of four cores the head will need three; one is spare for ever, and only one."""
    behind = [a_waiting(f"one{n}", cpu=1000, mem=0, submitted=1 + n) for n in range(2)]
    assert placed(half_full(*behind)) == {"one0"}


def test_other_nodes_are_free_for_all() -> None:
    queue = (a_waiting("head", cpu=3000, mem=0), a_waiting("long", cpu=2000, mem=0, submitted=1))
    nodes = (a_node("n1", cpu=4000, used_cpu=2000), a_node("n2", cpu=2000))
    decisions = decide(Snapshot(10.0, nodes, queue, (runs("r", "n1", 2000, 100.0),)), Policy("fifo"))
    assert decisions.placements[0].kernels == {"k-long": "n2"}


def test_a_session_that_is_stopping_gives_its_room_any_moment() -> None:
    queue = (a_waiting("head", cpu=4000, mem=0),)
    running = (runs("r", "n1", 2000, None, leaving=True),)
    [reservation] = decide(Snapshot(10.0, (a_node(used_cpu=2000),), queue, running), Policy()).reservations
    assert reservation.at == 10.0


def test_sessions_placed_in_this_pass_count_for_the_promise() -> None:
    queue = (
        a_waiting("first", cpu=4000, mem=0, time_limit_s=50.0),
        a_waiting("head", cpu=4000, mem=0, submitted=1),
    )
    [reservation] = decide(Snapshot(10.0, (a_node(cpu=4000),), queue), Policy("fifo")).reservations
    assert (reservation.session_id, reservation.at) == ("head", 60.0)


def test_a_gang_is_promised_the_moment_when_all_its_kernels_fit() -> None:
    queue = (a_waiting("gang", cpu=2000, mem=0, kernels=3),)
    nodes = tuple(a_node(f"n{n}", cpu=2000, used_cpu=2000) for n in range(4))
    running = tuple(runs(f"r{n}", f"n{n}", 2000, 100.0 * (4 - n)) for n in range(4))
    [reservation] = decide(Snapshot(10.0, nodes, queue, running), Policy("fifo")).reservations
    assert (reservation.agents, reservation.at) == (("n1", "n2", "n3"), 300.0)


def test_without_time_limits_others_pass_and_the_head_is_counted_as_skipped() -> None:
    decisions = half_full(a_waiting("long", cpu=2000, mem=0, submitted=1), limit=None)
    assert placed(decisions) == {"long"}
    assert (decisions.skipped, decisions.reservations) == (("head",), ())


def test_a_head_that_nobody_passed_was_not_skipped() -> None:
    assert half_full(limit=None).skipped == ()


def test_after_enough_skips_the_nearest_nodes_are_kept() -> None:
    decisions = half_full(a_waiting("long", cpu=1000, mem=0, submitted=1), limit=None, skips=20)
    assert placed(decisions) == set()
    [reservation] = decisions.reservations
    assert (reservation.session_id, reservation.agents, reservation.at) == ("head", ("n1",), None)
    assert {one.cause for one in decisions.refusals if one.session_id == "long"} == {Cause.RESERVED}


def test_the_nodes_that_miss_the_least_are_the_nearest() -> None:
    queue = (a_waiting("head", cpu=4000, mem=0, skips=20),)
    nodes = (a_node("n1", used_cpu=3000), a_node("n2", used_cpu=1000), a_node("n3", used_cpu=2000))
    [reservation] = decide(Snapshot(10.0, nodes, queue), Policy("fifo")).reservations
    assert reservation.agents == ("n2",)


def test_nobody_passes_a_strict_head() -> None:
    decisions = half_full(a_waiting("tiny", cpu=10, mem=0, submitted=1, time_limit_s=1.0), head=Head.STRICT)
    causes = {one.session_id: one.cause for one in decisions.refusals}
    assert causes == {"head": Cause.NO_ROOM, "tiny": Cause.BEHIND_HEAD}


def test_all_pass_where_there_is_no_head() -> None:
    decisions = half_full(a_waiting("long", cpu=2000, mem=0, submitted=1), head=Head.NONE)
    assert (placed(decisions), decisions.reservations, decisions.skipped) == ({"long"}, (), ())


def test_what_never_fits_or_may_not_start_is_no_head() -> None:
    for blocked in (
        a_waiting("blocked", cpu=99_000),
        replace(a_waiting("blocked"), unmet=("other",)),
        replace(a_waiting("blocked"), not_before=99.0),
    ):
        snapshot = Snapshot(10.0, (a_node(cpu=1000),), (blocked, a_waiting("next", submitted=1)))
        assert placed(decide(snapshot, Policy("fifo", head=Head.STRICT))) == {"next"}


_jobs = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 50), st.integers(0, 100), st.integers(0, 60)), min_size=1, max_size=12
)


def _queue(jobs: list[tuple[int, int, int, int]]) -> tuple[list[WaitingSession], dict[str, float]]:
    """(cores, seconds, submitted, seconds that the limit is above) → sessions and their run times."""
    sessions = [
        a_waiting(f"s{n:02}", cpu=cpu * 1000, mem=0, submitted=float(at), time_limit_s=float(lasts + more))
        for n, (cpu, lasts, at, more) in enumerate(jobs)
    ]
    return sessions, {f"s{n:02}": float(lasts) for n, (_, lasts, _, _) in enumerate(jobs)}


@settings(max_examples=60, deadline=None)
@given(_jobs)
def test_backfill_never_delays_the_promise(jobs: list[tuple[int, int, int, int]]) -> None:
    """Whatever comes later and passes the head, it starts no later than first promised."""
    sessions, lasts = _queue(jobs)
    nodes = (a_node("n1", cpu=4000), a_node("n2", cpu=3000))
    now = float(min(session.submitted for session in sessions))
    here = tuple(session for session in sessions if session.submitted <= now)
    later = [session for session in sessions if session.submitted > now]
    snapshot = Snapshot(now, nodes, here)
    policy = Policy("fifo")
    timeline = simulate(snapshot, policy, arrivals=later, durations=lasts, until=1e6)
    for reservation in decide(snapshot, policy).reservations:
        start = timeline.started(reservation.session_id)
        assert start is not None
        assert reservation.at is not None
        assert start <= reservation.at


@settings(max_examples=60, deadline=None)
@given(_jobs)
def test_everyone_who_can_start_starts(jobs: list[tuple[int, int, int, int]]) -> None:
    sessions, lasts = _queue(jobs)
    for order in ("fifo", "lifo", "priority", "drf", "fair-share"):
        snapshot = Snapshot(0.0, (a_node("n1", cpu=4000), a_node("n2", cpu=3000)), ())
        timeline = simulate(snapshot, Policy(order), arrivals=sessions, durations=lasts, until=1e6)
        assert {one.session_id for one in timeline.starts} == set(lasts)


def test_a_large_session_is_not_starved_by_a_stream_of_small_ones() -> None:
    """Small ones of unknown length keep the node busy; after 20 skips its room is kept for the large one."""
    small = [a_waiting(f"t{n:03}", cpu=1000, mem=0, submitted=n * 2.5) for n in range(400)]
    large = a_waiting("large", cpu=4000, mem=0, submitted=20.0)
    lasts = {**{one.session_id: 9.0 for one in small}, "large": 10.0}
    timeline = simulate(
        Snapshot(0.0, (a_node(cpu=4000),), ()), Policy("fifo"), arrivals=[*small, large], durations=lasts, until=2000.0
    )
    start = timeline.started("large")
    assert start is not None
    assert start < 120.0
    free_for_all = simulate(
        Snapshot(0.0, (a_node(cpu=4000),), ()),
        Policy("fifo", head=Head.NONE),
        arrivals=[*small, large],
        durations=lasts,
        until=900.0,
    )
    assert free_for_all.started("large") is None


def test_ageing_brings_a_low_session_past_a_stream_of_higher_ones() -> None:
    stream = [a_waiting(f"t{n:03}", cpu=4000, mem=0, priority=12, submitted=n * 600.0) for n in range(60)]
    low = a_waiting("low", cpu=4000, mem=0, priority=10, submitted=1.0)
    lasts = {**{one.session_id: 700.0 for one in stream}, "low": 1.0}
    waits = {}
    for ageing in (0.0, 1.0):
        policy = Policy("priority", ageing_per_hour=ageing)
        snapshot = Snapshot(0.0, (a_node(cpu=4000),), ())
        waits[ageing] = simulate(snapshot, policy, arrivals=[*stream, low], durations=lasts, until=30_000.0).started(
            "low"
        )
    assert waits[0.0] is None
    assert waits[1.0] is not None
    assert waits[1.0] < 3 * 3600
