"""Who is looked at first, by examples worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moorage.scheduler.decide import decide
from moorage.scheduler.order import ORDERS, Account, FairShare, factor
from moorage.scheduler.snapshot import (
    Owner,
    Policy,
    RunningKernel,
    RunningSession,
    Scope,
    Snapshot,
    TenantState,
    WaitingSession,
)
from tests.support.builders import GIB, a_node, a_waiting

DAY = 86_400.0


def placed(snapshot: Snapshot, order: str) -> list[str]:
    return [one.session_id for one in decide(snapshot, Policy(order)).placements]


def runs(session_id: str, user: str, cpu: int, *, project: str = "", agent_id: str = "n1") -> RunningSession:
    kernel = RunningKernel(f"k-{session_id}", agent_id, {"cpu": cpu, "mem": 0})
    return RunningSession(session_id, (kernel,), 0.0, Owner(user, project, "", user))


def test_drf_gives_three_and_two_tasks_as_in_the_paper() -> None:
    """Ghodsi et al., NSDI 2011, section 4.1: 9 CPU and 18 GB; A asks ⟨1 CPU, 4 GB⟩, B ⟨3 CPU, 1 GB⟩."""
    a = [a_waiting(f"a{n}", cpu=1000, mem=4 * GIB, user="A", submitted=n) for n in range(9)]
    b = [a_waiting(f"b{n}", cpu=3000, mem=1 * GIB, user="B", submitted=n) for n in range(9)]
    names = placed(Snapshot(100.0, (a_node(cpu=9000, mem=18 * GIB),), (*a, *b)), "drf")
    assert sorted(name[0] for name in names) == ["a", "a", "a", "b", "b"]


def test_drf_fills_by_weight() -> None:
    """One slot, weights 2 and 1, nine places: six and three."""
    queue = [a_waiting(f"{user}{n}", user=user, mem=0, submitted=n) for user in "ab" for n in range(9)]
    weights = (TenantState(Scope.USER, "a", weight=2.0), TenantState(Scope.USER, "b", weight=1.0))
    names = placed(Snapshot(100.0, (a_node(cpu=9000),), tuple(queue), tenants=weights), "drf")
    assert sum(name.startswith("a") for name in names) == 6


def test_drf_counts_what_users_hold_already() -> None:
    node = a_node(cpu=8000, used_cpu=4000)
    queue = [a_waiting(f"{user}{n}", user=user, mem=0, submitted=n) for user in "ab" for n in range(8)]
    snapshot = Snapshot(100.0, (node,), tuple(queue), (runs("r", "a", 4000),))
    assert placed(snapshot, "drf") == ["b0", "b1", "b2", "b3"]


def test_drf_looks_at_higher_bands_first() -> None:
    queue = (a_waiting("low", user="a"), a_waiting("high", user="b", priority=20))
    snapshot = Snapshot(100.0, (a_node(cpu=3000, used_cpu=2000),), queue, (runs("r", "b", 2000),))
    assert placed(snapshot, "drf") == ["high"]


def test_lifo_starts_the_latest() -> None:
    queue = (a_waiting("old", submitted=1), a_waiting("new", submitted=2))
    assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue), "lifo") == ["new"]


def test_without_ageing_bands_hold_under_priority() -> None:
    queue = (a_waiting("old", submitted=-1e6), a_waiting("urgent", submitted=99, priority=11))
    assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue), "priority") == ["urgent"]


def test_a_newcomer_is_first_under_fair_share() -> None:
    queue = (a_waiting("old", user="a", project="p", submitted=1), a_waiting("new", user="b", project="p", submitted=2))
    used = (TenantState(Scope.USER, "a@p", decayed={"cpu": 1.0}),)
    assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue, tenants=used), "fair-share") == ["new"]


def test_use_in_one_project_does_not_count_in_another() -> None:
    queue = (
        a_waiting("a-in-q", user="a", project="q", submitted=1),
        a_waiting("b-in-q", user="b", project="q", submitted=2),
    )
    used = (TenantState(Scope.USER, "a@p", decayed={"cpu": 1e9}), TenantState(Scope.USER, "b@q", decayed={"cpu": 1.0}))
    assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue, tenants=used), "fair-share") == ["a-in-q"]


def test_projects_are_compared_before_users() -> None:
    queue = (
        a_waiting("p-user", user="a", project="p", submitted=1),
        a_waiting("q-user", user="b", project="q", submitted=2),
    )
    used = (
        TenantState(Scope.PROJECT, "p", decayed={"cpu": 10.0}),
        TenantState(Scope.USER, "b@q", decayed={"cpu": 1e9}),
    )
    assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue, tenants=used), "fair-share") == ["q-user"]


def test_memory_counts_as_much_as_cpu_under_fair_share() -> None:
    """Half of the memory for an hour weighs more than a quarter of the cores for an hour."""
    queue = (
        a_waiting("much-mem", user="a", project="p", submitted=1),
        a_waiting("some-cpu", user="b", project="p", submitted=2),
    )
    used = (
        TenantState(Scope.USER, "a@p", decayed={"mem": 4 * GIB * 3600.0}),
        TenantState(Scope.USER, "b@p", decayed={"cpu": 250 * 3600.0}),
    )
    snapshot = Snapshot(100.0, (a_node(cpu=1000, mem=8 * GIB),), queue, tenants=used)
    assert placed(snapshot, "fair-share") == ["some-cpu"]


def test_placements_of_the_pass_count_at_once_under_fair_share() -> None:
    queue = [a_waiting(f"{user}{n}", user=user, project="p", mem=0, submitted=n) for user in "ab" for n in range(4)]
    names = placed(Snapshot(100.0, (a_node(cpu=4000),), tuple(queue)), "fair-share")
    assert sorted(names) == ["a0", "a1", "b0", "b1"]


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 2**-1.0), (2.0, 2**-0.5), (0.5, 2**-2.0)])
def test_the_factor_is_two_to_minus_normalised_use_by_weight(weight: float, expected: float) -> None:
    """The whole capacity for one half-life, undecayed, is a normalised use of 1."""
    policy = Policy("fair-share", half_life_s=7 * DAY)
    account = Account([0], [1000 * 7 * DAY], weight)
    assert factor(FairShare().burden(account, [1000], policy)) == pytest.approx(expected)


def test_one_hour_of_what_is_held_counts_as_used() -> None:
    policy = Policy("fair-share", half_life_s=3600.0)
    assert FairShare().burden(Account([500], [0.0], 1.0), [1000], policy) == pytest.approx(0.5)


def test_ids_break_ties_in_every_order() -> None:
    queue = tuple(a_waiting(name, user=name) for name in ("c", "a", "b"))
    for order in ORDERS:
        assert placed(Snapshot(100.0, (a_node(cpu=1000),), queue), order) == ["a"]


class SmallestFirst:
    """What a plug-in has to write."""

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        return (sum(kernel.slots["cpu"] for kernel in session.kernels),)


def test_an_order_of_a_third_party_is_used_inside_bands() -> None:
    queue = (a_waiting("large", cpu=2000), a_waiting("small", submitted=9), a_waiting("high", cpu=3000, priority=20))
    snapshot = Snapshot(100.0, (a_node(cpu=4000),), queue)
    decisions = decide(snapshot, Policy("smallest"), orders={**ORDERS, "smallest": SmallestFirst()})
    assert [one.session_id for one in decisions.placements] == ["high", "small"]


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(KeyError):
        decide(Snapshot(0.0, (), ()), replace(Policy(), order="best"))
