"""The pass as a pure function: examples, and properties that hold for any cluster."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Cause, NodeState, Policy, Snapshot, WaitingSession
from tests.support.builders import GIB, a_node, a_waiting

nodes = st.lists(
    st.builds(lambda n, cpu, mem: (n, cpu, mem), st.integers(0, 9), st.integers(0, 8), st.integers(0, 8)),
    max_size=6,
    unique_by=lambda node: node[0],
).map(lambda found: [a_node(f"n{n}", cpu=cpu * 1000, mem=mem * GIB) for n, cpu, mem in found])
waiting = st.lists(
    st.tuples(st.integers(0, 99), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 5)),
    max_size=12,
    unique_by=lambda session: session[0],
).map(
    lambda found: [
        a_waiting(f"s{n}", cpu=cpu * 1000, mem=mem * GIB, priority=priority * 10, submitted=float(at))
        for n, cpu, mem, priority, at in found
    ]
)


def placed(found: list[NodeState], queue: list[WaitingSession], policy: Policy | None = None) -> dict[str, str]:
    decisions = decide(Snapshot(100.0, tuple(found), tuple(queue)), policy or Policy())
    return {one.session_id: next(iter(one.kernels.values())) for one in decisions.placements}


def test_the_earlier_one_starts_first_under_fifo() -> None:
    queue = [a_waiting("late", submitted=2), a_waiting("early", submitted=1)]
    assert placed([a_node(cpu=1000)], queue, Policy("fifo")) == {"early": "n1"}


def test_a_higher_band_starts_before_an_earlier_one() -> None:
    queue = [a_waiting("early", submitted=1), a_waiting("urgent", submitted=2, priority=20)]
    assert placed([a_node(cpu=1000)], queue) == {"urgent": "n1"}


def test_waiting_long_enough_overtakes_a_band_with_ageing() -> None:
    queue = [a_waiting("old", submitted=-7200), a_waiting("urgent", submitted=99, priority=11)]
    assert placed([a_node(cpu=1000)], queue, Policy(ageing_per_hour=1.0)) == {"old": "n1"}


def test_a_session_without_room_does_not_block_those_behind_it() -> None:
    queue = [a_waiting("big", cpu=3000, submitted=1), a_waiting("small", submitted=2)]
    assert placed([a_node(cpu=2000)], queue) == {"small": "n1"}


def test_concentrated_fills_the_fullest_node_first() -> None:
    assert placed([a_node("n1"), a_node("n2", used_cpu=2000)], [a_waiting()]) == {"s1": "n2"}


def test_cpu_work_stays_off_nodes_with_accelerators() -> None:
    assert placed([a_node("a-gpu", used_cpu=3000, gpus=8), a_node("b-cpu")], [a_waiting()]) == {"s1": "b-cpu"}


def test_a_node_that_failed_the_session_is_taken_only_when_no_other_has_room() -> None:
    avoiding = a_waiting(avoid=frozenset({"n1"}))
    assert placed([a_node("n1", used_cpu=1000), a_node("n2")], [avoiding]) == {"s1": "n2"}
    assert placed([a_node("n1")], [avoiding]) == {"s1": "n1"}


def test_the_reason_says_what_is_missing_with_numbers() -> None:
    snapshot = Snapshot(0.0, (a_node(cpu=4000, used_cpu=3000),), (a_waiting(cpu=2000),))
    [refusal] = decide(snapshot, Policy()).refusals
    assert refusal.cause is Cause.NO_ROOM
    assert "cpu 2 (most free on one node 1)" in refusal.message


def test_what_no_node_can_ever_hold_is_told_apart() -> None:
    [refusal] = decide(Snapshot(0.0, (a_node(),), (a_waiting(cpu=9000),)), Policy()).refusals
    assert refusal.cause is Cause.NEVER_FITS
    [refusal] = decide(Snapshot(0.0, (), (a_waiting(),)), Policy()).refusals
    assert refusal.cause is Cause.NO_NODES


@given(nodes, waiting)
def test_no_node_is_given_more_than_it_has(found: list[NodeState], queue: list[WaitingSession]) -> None:
    requests = {session.session_id: session.kernels[0].slots for session in queue}
    where = placed(found, queue)
    for node in found:
        for slot, capacity in node.capacity.items():
            assert sum(requests[one][slot] for one, agent in where.items() if agent == node.agent_id) <= capacity


@given(nodes, waiting, st.randoms())
def test_decisions_do_not_depend_on_the_order_of_rows(
    found: list[NodeState], queue: list[WaitingSession], random: Random
) -> None:
    shuffled_nodes, shuffled_queue = list(found), list(queue)
    random.shuffle(shuffled_nodes)
    random.shuffle(shuffled_queue)
    assert placed(found, queue) == placed(shuffled_nodes, shuffled_queue)


@given(nodes, waiting)
def test_each_session_is_either_placed_or_told_why_not(found: list[NodeState], queue: list[WaitingSession]) -> None:
    decisions = decide(Snapshot(0.0, tuple(found), tuple(queue)), Policy())
    named = [one.session_id for one in decisions.placements] + [one.session_id for one in decisions.refusals]
    assert sorted(named) == sorted(session.session_id for session in queue)
