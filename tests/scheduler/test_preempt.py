"""Who makes way for whom."""

from __future__ import annotations

from dataclasses import replace

from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import (
    Decisions,
    Head,
    Hold,
    Policy,
    PreemptionMode,
    RunningKernel,
    RunningSession,
    Snapshot,
    WaitingSession,
)
from tests.support.builders import a_node, a_waiting

POLICY = Policy("fifo", preemption=PreemptionMode.REQUEUE, preemption_min_run_s=60.0, preemption_hold_s=120.0)


def runs(session_id: str, cpu: int, *, agent_id: str = "n1", job: int = 0, since: float = 0.0) -> RunningSession:
    kernel = RunningKernel(f"k-{session_id}", agent_id, {"cpu": cpu, "mem": 0})
    return RunningSession(session_id, (kernel,), since, job_priority=job)


def run(
    *running: RunningSession, asks: int = 2000, holds: tuple[Hold, ...] = (), behind: tuple[WaitingSession, ...] = ()
) -> Decisions:
    used: dict[str, int] = {"n1": 0}
    for session in running:
        for kernel in session.kernels:
            used[kernel.agent_id] = used.get(kernel.agent_id, 0) + kernel.slots["cpu"]
    nodes = tuple(a_node(agent_id, cpu=4000, used_cpu=cpu) for agent_id, cpu in used.items())
    head = a_waiting("head", cpu=asks, mem=0, job_priority=5)
    return decide(Snapshot(1000.0, nodes, (head, *behind), running, holds=holds), POLICY)


def victims(decisions: Decisions) -> list[str]:
    return [one for preemption in decisions.preemptions for one in preemption.victims]


def test_the_lowest_job_priority_makes_way_first() -> None:
    assert victims(run(runs("a", 2000, job=3), runs("b", 2000, job=1))) == ["b"]


def test_of_equals_the_youngest_makes_way() -> None:
    assert victims(run(runs("old", 2000), runs("young", 2000, since=500.0))) == ["young"]


def test_no_more_is_freed_than_needed() -> None:
    """One of two cores would do, and the other node would have to free four."""
    found = run(runs("a", 3000), runs("b", 1000, job=1), runs("c", 4000, agent_id="n2"), asks=1000)
    assert victims(found) == ["b"]


def test_a_victim_that_is_not_needed_after_all_stays() -> None:
    """The youngest is looked at first, but the larger one alone makes enough room."""
    found = run(runs("large", 3000, since=100.0), runs("young", 1000, since=500.0), asks=3000)
    assert victims(found) == ["large"]


def test_only_those_who_may_are_stopped() -> None:
    assert victims(run(runs("same", 4000, job=5))) == []
    assert victims(run(runs("new", 4000, since=990.0))) == []
    assert victims(run(replace(runs("kept", 4000), preemptible=False))) == []
    assert victims(run(replace(runs("leaving", 4000), leaving=True))) == []


def test_the_room_is_held_for_whom_it_was_made() -> None:
    found = run(runs("a", 4000), behind=(a_waiting("next", cpu=100, mem=0, submitted=1),))
    [preemption] = found.preemptions
    assert preemption.hold == Hold("head", {"k-head": "n1"}, 1120.0)
    assert found.placements == ()


def test_a_session_with_a_hold_preempts_nobody_else() -> None:
    hold = Hold("head", {"k-head": "n1"}, 1100.0)
    assert victims(run(runs("a", 4000), holds=(hold,))) == []


def test_held_room_is_kept_from_others_and_taken_by_its_session() -> None:
    hold = Hold("head", {"k-head": "n1"}, 1100.0)
    other = a_waiting("other", cpu=3000, mem=0, submitted=-5)
    waiting = run(
        runs("a", 3000), holds=(hold,), behind=(replace(other, kernels=a_waiting("o", cpu=1000, mem=0).kernels),)
    )
    assert waiting.placements == ()
    free = run(holds=(hold,), behind=(other,))
    assert [one.session_id for one in free.placements] == ["head"]


def test_a_hold_ends() -> None:
    hold = Hold("head", {"k-head": "n1"}, 999.0)
    other = a_waiting("other", cpu=3000, mem=0, submitted=-5)
    assert [one.session_id for one in run(holds=(hold,), behind=(other,)).placements] == ["other"]


def test_a_gang_has_room_made_for_all_its_kernels() -> None:
    nodes = (a_node("n1", used_cpu=4000), a_node("n2", used_cpu=4000))
    gang = a_waiting("gang", cpu=3000, mem=0, kernels=2, job_priority=5)
    running = (runs("a", 4000), runs("b", 4000, agent_id="n2"))
    [preemption] = decide(Snapshot(1000.0, nodes, (gang,), running), POLICY).preemptions
    assert preemption.victims == ("a", "b")
    assert sorted(preemption.hold.kernels.values()) == ["n1", "n2"]


def test_others_make_way_for_a_higher_rank_that_is_not_the_head() -> None:
    ranked = a_waiting("ranked", cpu=2000, mem=0, submitted=9.0, job_priority=7)
    decisions = run(runs("a", 4000, job=6), behind=(ranked,))
    assert victims(decisions) == ["a"], "the head's own rank is not enough, that of the one behind it is"
    assert decisions.preemptions[0].hold.session_id == "ranked"


def test_nobody_behind_a_strict_head_has_others_stopped() -> None:
    ranked = a_waiting("ranked", cpu=2000, mem=0, submitted=9.0, job_priority=7)
    head = a_waiting("head", cpu=2000, mem=0, job_priority=5)
    strict = replace(POLICY, head=Head.STRICT)
    node = a_node("n1", cpu=4000, used_cpu=4000)
    assert decide(Snapshot(1000.0, (node,), (head, ranked), (runs("a", 4000, job=6),)), strict).preemptions == ()
