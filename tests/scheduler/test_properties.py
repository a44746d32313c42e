"""What holds of every pass over every group."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.scheduler.decide import decide
from moorage.scheduler.planner import Planner
from moorage.scheduler.snapshot import Cause, Changes, ClusterMode, Head, Hold, Policy, PreemptionMode, Snapshot
from tests.scheduler import worlds

_many = settings(max_examples=40, deadline=None)
_LACKS_ROOM = (Cause.NO_ROOM, Cause.RESERVED, Cause.BEHIND_HEAD)


@_many
@given(worlds.snapshots(), worlds.policies)
def test_no_node_and_no_device_is_given_more_than_it_has(snapshot: Snapshot, policy: Policy) -> None:
    worlds.assert_within_capacity(snapshot, decide(snapshot, policy))


@_many
@given(worlds.snapshots(), worlds.policies)
def test_each_session_is_either_placed_or_told_why_not(snapshot: Snapshot, policy: Policy) -> None:
    decisions = decide(snapshot, policy)
    named = [one.session_id for one in decisions.placements] + [one.session_id for one in decisions.refusals]
    assert sorted(named) == sorted(session.session_id for session in snapshot.waiting)
    assert all(one.message for one in decisions.refusals)


@_many
@given(worlds.snapshots(), worlds.policies, st.randoms())
def test_the_order_of_rows_decides_nothing(snapshot: Snapshot, policy: Policy, random: Random) -> None:
    def shuffled(rows: tuple) -> tuple:  # type: ignore[type-arg]
        return tuple(random.sample(rows, len(rows)))

    nodes = tuple(replace(node, devices=shuffled(node.devices)) for node in shuffled(snapshot.nodes))
    other = replace(
        snapshot,
        nodes=nodes,
        waiting=shuffled(snapshot.waiting),
        running=shuffled(snapshot.running),
        tenants=shuffled(snapshot.tenants),
    )
    assert worlds.comparable(decide(snapshot, policy)) == worlds.comparable(decide(other, policy))


@_many
@given(worlds.snapshots(), worlds.policies)
def test_the_same_snapshot_gives_the_same_decisions(snapshot: Snapshot, policy: Policy) -> None:
    assert decide(snapshot, policy) == decide(snapshot, policy)


@_many
@given(worlds.snapshots(), worlds.policies)
def test_a_pass_changes_nothing_for_the_next(snapshot: Snapshot, policy: Policy) -> None:
    planner = Planner(snapshot, policy)
    first = planner.decide()
    assert worlds.comparable(planner.decide()) == worlds.comparable(first)


@_many
@given(worlds.snapshots(), worlds.snapshots(), worlds.policies, st.data())
def test_a_warm_planner_decides_as_a_new_one(
    snapshot: Snapshot, other: Snapshot, policy: Policy, data: st.DataObject
) -> None:
    """Sessions start, end and come, time passes, nodes go: after each, the warm one knows what a cold reader knows."""
    planner = Planner(snapshot, policy)
    coming = [
        replace(
            one,
            session_id=f"x{one.session_id}",
            kernels=tuple(replace(kernel, kernel_id=f"x{kernel.kernel_id}") for kernel in one.kernels),
        )
        for one in other.waiting
    ]
    for _ in range(4):
        decisions = planner.decide(snapshot.now)
        assert worlds.comparable(decisions) == worlds.comparable(decide(snapshot, policy))
        kind = data.draw(st.sampled_from(("start", "end", "come", "lose", "tenants", "hold")))
        if kind == "start":
            changes = worlds.started(snapshot, decisions)
        elif kind == "end":
            running = sorted(one.session_id for one in snapshot.running)
            changes = worlds.ended(
                snapshot, data.draw(st.lists(st.sampled_from(running), unique=True)) if running else []
            )
        elif kind == "come":
            changes = Changes(waiting=tuple(coming[:3]))
            coming = coming[3:]
        elif kind == "lose":
            gone = tuple(one.agent_id for one in snapshot.nodes[:1])
            stay = tuple(one.session_id for one in snapshot.running if one.kernels[0].agent_id not in gone)
            left = tuple(one.session_id for one in snapshot.running if one.session_id not in stay)
            changes = Changes(removed_nodes=gone, removed_running=left)
        elif kind == "tenants":
            changes = Changes(tenants=other.tenants)
        else:
            changes = Changes(holds=tuple(one.hold for one in decisions.preemptions))
        planner.apply(changes)
        snapshot = worlds.after(snapshot, changes)
        if changes.holds is not None:
            snapshot = replace(snapshot, holds=changes.holds)
        known = {(one.scope, one.name): one for one in (*snapshot.tenants, *changes.tenants)}
        snapshot = replace(snapshot, now=snapshot.now + 3, tenants=tuple(known.values()))


@_many
@given(worlds.snapshots(), worlds.policies)
def test_a_gang_on_one_node_is_on_one_node(snapshot: Snapshot, policy: Policy) -> None:
    modes = {session.session_id: session.cluster_mode for session in snapshot.waiting}
    for placement in decide(snapshot, policy).placements:
        if modes[placement.session_id] is ClusterMode.SINGLE_NODE:
            assert len(set(placement.kernels.values())) == 1


@_many
@given(worlds.snapshots(), worlds.policies)
def test_constraints_of_a_session_are_kept(snapshot: Snapshot, policy: Policy) -> None:
    sessions = {session.session_id: session for session in snapshot.waiting}
    for placement in decide(snapshot, policy).placements:
        session = sessions[placement.session_id]
        assert not session.unmet
        assert session.not_before <= snapshot.now
        assert not session.designated or set(placement.kernels.values()) <= session.designated


@_many
@given(worlds.snapshots(), worlds.policies)
def test_a_lower_band_never_takes_what_a_higher_one_could_have(snapshot: Snapshot, policy: Policy) -> None:
    """Without the lower bands, the higher ones are placed the same."""
    if policy.order == "priority" and policy.ageing_per_hour:
        return
    policy = replace(policy, head=Head.NONE, preemption=PreemptionMode.OFF)
    high = replace(snapshot, waiting=tuple(one for one in snapshot.waiting if one.priority == 20))
    alone = {one.session_id: one for one in decide(high, policy).placements}
    together = {one.session_id: one for one in decide(snapshot, policy).placements}
    assert {key: one for key, one in together.items() if key in {s.session_id for s in high.waiting}} == alone


@_many
@given(worlds.snapshots(), worlds.policies)
def test_limits_hold_with_what_the_pass_itself_places(snapshot: Snapshot, policy: Policy) -> None:
    decisions = decide(snapshot, policy)
    sessions = {session.session_id: session for session in snapshot.waiting}
    placed = [sessions[one.session_id] for one in decisions.placements]
    for tenant in snapshot.tenants:
        mine = [one for one in placed if getattr(one.owner, tenant.scope.value) == tenant.name]
        if tenant.max_sessions is not None:
            assert not mine or tenant.sessions + len(mine) <= tenant.max_sessions
        for slot, most in tenant.max_slots.items():
            asked = sum(kernel.slots.get(slot, 0) for one in mine for kernel in one.kernels)
            assert not asked or tenant.held.get(slot, 0) + asked <= most


@_many
@given(worlds.snapshots(), worlds.policies)
def test_who_is_told_that_there_is_no_room_would_not_fit_after_the_pass(snapshot: Snapshot, policy: Policy) -> None:
    decisions = decide(snapshot, replace(policy, head=Head.NONE, preemption=PreemptionMode.OFF))
    told = {one.session_id for one in decisions.refusals if one.cause is Cause.NO_ROOM}
    later = worlds.after(snapshot, worlds.started(snapshot, decisions))
    for session in later.waiting:
        if session.session_id in told:
            alone = replace(later, waiting=(session,), tenants=())
            assert not decide(alone, replace(policy, head=Head.NONE)).placements


@_many
@given(worlds.snapshots(), worlds.policies)
def test_room_that_is_held_goes_to_nobody_else(snapshot: Snapshot, policy: Policy) -> None:
    """After preemption, with the victims gone, whom they were stopped for starts on exactly those nodes."""
    policy = replace(policy, preemption=PreemptionMode.TERMINATE, head=Head.EASY)
    decisions = decide(snapshot, policy)
    for preemption in decisions.preemptions:
        hold: Hold = preemption.hold
        snapshot = worlds.after(snapshot, worlds.started(snapshot, decisions))
        snapshot = worlds.after(snapshot, worlds.ended(snapshot, list(preemption.victims)))
        snapshot = replace(snapshot, holds=(hold,), tenants=())
        later = {one.session_id: one for one in decide(snapshot, policy).placements}
        assert later[hold.session_id].kernels == hold.kernels
