"""Everything that keeps a session waiting, with numbers."""

from __future__ import annotations

import pytest

from moorage.scheduler.explain import Explanation, explain
from moorage.scheduler.planner import Planner
from moorage.scheduler.snapshot import DeviceState, NodeState, Policy, Scope, Snapshot, TenantState, WaitingSession
from tests.support.builders import a_node, a_waiting


def why(session: WaitingSession, *nodes: NodeState, tenants: tuple[TenantState, ...] = ()) -> Explanation:
    return explain(Snapshot(10.0, nodes, (session,), tenants=tenants), Policy("fifo"), session.session_id)


def test_each_slot_tells_how_many_nodes_have_it_free() -> None:
    found = why(
        a_waiting("s", cpu=3000), a_node("n1", used_cpu=2000), a_node("n2", used_cpu=3000), a_node("n3", cpu=2000)
    )
    cpu = next(one for one in found.obstacles if one.cause == "slot:cpu")
    assert (cpu.nodes, found.fitting_nodes, found.nodes) == (3, 0, 3)
    assert cpu.message == "cpu: asks 3, 0 of 3 nodes have that free (most 2), 2 would if they were empty"


def test_the_smallest_change_asks_less() -> None:
    assert why(a_waiting("s", cpu=3000), a_node(used_cpu=2000)).change == "ask cpu 2 instead of 3"


def test_the_smallest_change_frees_what_is_missing_on_the_nearest_node() -> None:
    nodes = (a_node("n1", used_cpu=4000), a_node("n2", used_cpu=4000, cpu=5000))
    session = a_waiting("s", cpu=2000, slots={"cuda.device": 1})
    assert why(session, a_node("n1", gpus=2, used_cpu=4000)).change == "2 more of cpu on node n1"
    assert why(session, *nodes).change.startswith("add a node with cpu 2")


def test_all_causes_are_told_at_once() -> None:
    tenants = (
        TenantState(Scope.USER, "ada", max_sessions=1, sessions=1),
        TenantState(Scope.PROJECT, "p", max_slots={"cpu": 1000}),
    )
    found = why(a_waiting("s", cpu=2000, user="ada", project="p"), a_node(used_cpu=3000), tenants=tenants)
    assert [one.cause for one in found.obstacles] == ["concurrency-limit", "slot-limit", "no-room", "slot:cpu"]
    assert found.change.endswith("or the limit were higher (waits for quota: user ada runs 1 of 1 sessions)")


def test_shares_in_parts_of_several_devices_are_told_apart() -> None:
    devices = tuple(DeviceState(f"g{n}", "cuda.shares", 100, 50) for n in range(2))
    found = why(a_waiting("s", slots={"cuda.shares": 60}), a_node(devices=devices))
    shares = next(one for one in found.obstacles if one.cause == "slot:cuda.shares")
    assert shares.message.endswith("1 is free on one node, but in parts of several devices")


@pytest.mark.parametrize("order", ["fifo", "lifo", "priority", "drf", "fair-share"])
def test_the_position_counts_who_is_looked_at_before(order: str) -> None:
    queue = tuple(
        a_waiting(f"s{n}", cpu=8000, submitted=float(n), user=f"u{n}", priority=20 if n == 2 else 10) for n in range(3)
    )
    snapshot = Snapshot(10.0, (a_node(),), queue)
    places = {one.session_id: explain(snapshot, Policy(order), one.session_id).position for one in queue}
    assert places == ({"s2": 1, "s1": 2, "s0": 3} if order == "lifo" else {"s2": 1, "s0": 2, "s1": 3})


def test_a_warm_planner_answers_as_a_snapshot_does() -> None:
    snapshot = Snapshot(10.0, (a_node(used_cpu=2000),), (a_waiting("s", cpu=3000), a_waiting("t", cpu=9000)))
    planner = Planner(snapshot, Policy("fifo"))
    planner.decide()
    assert explain(planner, Policy("fifo"), "s") == explain(snapshot, Policy("fifo"), "s")


def test_kept_room_is_a_cause() -> None:
    queue = (a_waiting("head", cpu=4000, mem=0, skips=20), a_waiting("s", cpu=1000, mem=0, submitted=1))
    found = explain(Snapshot(10.0, (a_node(used_cpu=2000),), queue), Policy("fifo"), "s")
    assert found.obstacles[0].cause == "reserved"
    assert found.position == 2


def test_a_session_that_does_not_wait_is_refused() -> None:
    with pytest.raises(KeyError):
        explain(Snapshot(10.0, (), ()), Policy(), "gone")
