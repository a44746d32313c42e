"""Who may not start, with a cause and numbers, and without blocking anybody."""

from __future__ import annotations

from dataclasses import replace

from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Cause, Decisions, Policy, Refusal, Scope, Snapshot, TenantState, WaitingSession
from tests.support.builders import a_node, a_waiting


def run(*waiting: WaitingSession, tenants: tuple[TenantState, ...] = (), policy: Policy | None = None) -> Decisions:
    return decide(Snapshot(10.0, (a_node(cpu=8000),), waiting, tenants=tenants), policy or Policy("fifo"))


def refusal(decisions: Decisions, session_id: str) -> Refusal:
    return next(one for one in decisions.refusals if one.session_id == session_id)


def placed(decisions: Decisions) -> list[str]:
    return [one.session_id for one in decisions.placements]


def test_what_a_session_waits_for_by_itself_is_told() -> None:
    cases = {
        Cause.DEPENDENCY: replace(a_waiting("s"), unmet=("a", "b")),
        Cause.NOT_YET: replace(a_waiting("s"), not_before=11.0),
        Cause.SESSION_TYPE: replace(a_waiting("s"), session_type="interactive"),
    }
    for cause, session in cases.items():
        policy = Policy("fifo", session_types=frozenset({"batch"}))
        decisions = run(session, a_waiting("next", submitted=1), policy=policy)
        assert refusal(decisions, "s").cause is cause
        assert placed(decisions) == ["next"]


def test_concurrency_counts_what_the_pass_places() -> None:
    queue = [a_waiting(f"s{n}", user="ada", submitted=n) for n in range(4)]
    decisions = run(*queue, tenants=(TenantState(Scope.USER, "ada", max_sessions=3, sessions=1),))
    assert placed(decisions) == ["s0", "s1"]
    assert refusal(decisions, "s2").cause is Cause.CONCURRENCY
    assert refusal(decisions, "s2").message == "waits for quota: user ada runs 3 of 3 sessions"


def test_slots_are_limited_in_each_scope() -> None:
    for scope in Scope:
        session = a_waiting("s", cpu=2000, user="x", project="x", domain="x")
        tenant = TenantState(scope, "x", max_slots={"cpu": 5000}, held={"cpu": 4000})
        decisions = run(session, a_waiting("next", submitted=1), tenants=(tenant,))
        assert placed(decisions) == ["next"]
        assert refusal(decisions, "s").cause is Cause.SLOT_LIMIT
        assert "holds cpu 4 of 5, asks 2" in refusal(decisions, "s").message


def test_a_smaller_session_of_the_same_owner_may_still_start() -> None:
    tenant = TenantState(Scope.PROJECT, "p", max_slots={"cpu": 1000})
    decisions = run(
        a_waiting("large", cpu=2000, project="p"), a_waiting("small", project="p", submitted=1), tenants=(tenant,)
    )
    assert placed(decisions) == ["small"]


def test_designated_nodes_are_the_only_ones() -> None:
    session = replace(a_waiting("s"), designated=frozenset({"n2"}))
    nodes = (a_node("n1"), a_node("n2", used_cpu=4000))
    decisions = decide(Snapshot(10.0, nodes, (session,)), Policy())
    assert refusal(decisions, "s").cause is Cause.NO_ROOM


def test_a_session_starts_once_its_time_has_come() -> None:
    session = replace(a_waiting("s"), not_before=10.0)
    assert placed(run(session)) == ["s"]
