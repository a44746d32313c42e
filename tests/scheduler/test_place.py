"""Where a session goes: nodes, gangs, devices."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from moorage.scheduler.decide import decide
from moorage.scheduler.score import SELECTORS, Candidates
from moorage.scheduler.snapshot import (
    Cause,
    ClusterMode,
    Decisions,
    DeviceState,
    NodeState,
    Policy,
    Snapshot,
    WaitingSession,
)
from tests.support.builders import GIB, a_node, a_waiting


def run(
    *waiting: WaitingSession, nodes: tuple[NodeState, ...], selector: str = "concentrated", cursor: str = ""
) -> Decisions:
    return decide(Snapshot(10.0, nodes, waiting, cursor=cursor), Policy("fifo", selector))


def nodes_of(decisions: Decisions) -> dict[str, list[str]]:
    return {one.session_id: sorted(one.kernels.values()) for one in decisions.placements}


def shares(*used: int, numa: tuple[int, ...] = ()) -> tuple[DeviceState, ...]:
    where = numa or (0,) * len(used)
    return tuple(DeviceState(f"g{n}", "cuda.shares", 100, use, where[n]) for n, use in enumerate(used))


def gpus(*numa: int, used: tuple[int, ...] = ()) -> tuple[DeviceState, ...]:
    return tuple(DeviceState(f"g{n}", "cuda.device", 1, int(n in used), node) for n, node in enumerate(numa))


def given(devices: tuple[DeviceState, ...], slots: dict[str, int]) -> dict[str, int]:
    decisions = run(a_waiting("s", cpu=100, slots=slots), nodes=(a_node(devices=devices),))
    return dict(decisions.placements[0].devices["k-s"]) if decisions.placements else {}


def test_dispersed_takes_the_emptiest_node() -> None:
    assert nodes_of(run(a_waiting("s"), nodes=(a_node("n1", used_cpu=1000), a_node("n2")), selector="dispersed")) == {
        "s": ["n2"]
    }


def test_roundrobin_goes_on_from_the_cursor_and_tells_it() -> None:
    nodes = tuple(a_node(f"n{n}") for n in range(3))
    queue = [a_waiting(f"s{n}", submitted=n) for n in range(4)]
    decisions = run(*queue, nodes=nodes, selector="roundrobin", cursor="n1")
    assert nodes_of(decisions) == {"s0": ["n2"], "s1": ["n0"], "s2": ["n1"], "s3": ["n2"]}
    assert decisions.cursor == "n2"


def test_a_node_that_has_the_image_is_preferred() -> None:
    nodes = (a_node("n1", used_cpu=1000), a_node("n2", images=frozenset({"img"})))
    assert nodes_of(run(a_waiting("s", image="img"), nodes=nodes)) == {"s": ["n2"]}


def test_an_image_does_not_bring_cpu_work_to_an_accelerator() -> None:
    nodes = (a_node("n1", gpus=2, images=frozenset({"img"})), a_node("n2"))
    assert nodes_of(run(a_waiting("s", image="img"), nodes=nodes)) == {"s": ["n2"]}


class LeastMemoryNode:
    """What a plug-in has to write."""

    def score(self, candidates: Candidates) -> NDArray[np.float64]:
        column = candidates.slots.index("mem")
        return np.asarray(candidates.capacity[column] / candidates.scale[column])


def test_a_selector_of_a_third_party_is_used() -> None:
    nodes = (a_node("n1", mem=8 * GIB), a_node("n2", mem=4 * GIB), a_node("n3", mem=16 * GIB))
    snapshot = Snapshot(10.0, nodes, tuple(a_waiting(f"s{n}", cpu=3000, submitted=n) for n in range(3)))
    decisions = decide(snapshot, Policy("fifo", "least"), selectors={**SELECTORS, "least": LeastMemoryNode()})
    assert nodes_of(decisions) == {"s0": ["n2"], "s1": ["n1"], "s2": ["n3"]}


def test_a_gang_is_packed_on_as_few_nodes_as_possible() -> None:
    nodes = tuple(a_node(f"n{n}", cpu=cores * 1000, mem=64 * GIB) for n, cores in enumerate((2, 6, 3, 4)))
    decisions = run(a_waiting("gang", kernels=8), nodes=nodes)
    assert nodes_of(decisions)["gang"] == ["n0", "n0", *["n1"] * 6]


def test_a_gang_is_spread_when_dispersed() -> None:
    nodes = tuple(a_node(f"n{n}") for n in range(3))
    assert nodes_of(run(a_waiting("gang", kernels=3), nodes=nodes, selector="dispersed"))["gang"] == ["n0", "n1", "n2"]


def test_a_gang_starts_whole_or_not_at_all() -> None:
    decisions = run(
        a_waiting("gang", cpu=3000, kernels=3), a_waiting("next", submitted=1), nodes=(a_node("n1"), a_node("n2"))
    )
    assert nodes_of(decisions) == {"next": ["n1"]}
    assert decisions.refusals[0].cause is Cause.NEVER_FITS


def test_a_single_node_gang_waits_for_one_node_with_room_for_all() -> None:
    gang = a_waiting("gang", cpu=2000, kernels=2, cluster_mode=ClusterMode.SINGLE_NODE)
    assert nodes_of(run(gang, nodes=(a_node("n1", cpu=3000), a_node("n2", cpu=3000)))) == {}
    assert nodes_of(run(gang, nodes=(a_node("n1", cpu=3000), a_node("n2", cpu=4000)))) == {"gang": ["n2", "n2"]}


def test_each_kernel_of_a_single_node_gang_has_its_own_devices() -> None:
    gang = a_waiting("gang", kernels=2, slots={"cuda.device": 2}, cluster_mode=ClusterMode.SINGLE_NODE)
    [placement] = run(gang, nodes=(a_node(devices=gpus(0, 0, 1, 1)),)).placements
    assert placement.devices == {"k-gang-0": {"g0": 1, "g1": 1}, "k-gang-1": {"g2": 1, "g3": 1}}


def test_a_share_goes_where_least_is_left_over() -> None:
    assert given(shares(0, 30, 60), {"cuda.shares": 40}) == {"g2": 40}
    assert given(shares(0, 30, 60), {"cuda.shares": 50}) == {"g1": 50}


def test_a_share_that_fits_by_sum_but_on_no_device_waits() -> None:
    """Two devices with half free each: 1.0 is free, no device has 0.6."""
    assert given(shares(50, 50), {"cuda.shares": 60}) == {}


def test_more_than_a_device_is_whole_ones_and_the_rest_on_one() -> None:
    assert given(shares(0, 40, 0, 10), {"cuda.shares": 150}) == {"g0": 100, "g1": 50}
    assert given(shares(0, 60, 0, 60), {"cuda.shares": 150}) == {"g0": 100, "g2": 50}
    assert given(shares(0, 60, 10, 60), {"cuda.shares": 200}) == {}


def test_devices_of_a_kernel_share_a_numa_node_with_least_left_over() -> None:
    assert given(gpus(0, 0, 0, 1, 1), {"cuda.device": 2}) == {"g3": 1, "g4": 1}
    assert given(gpus(0, 0, 0, 1, 1), {"cuda.device": 3}) == {"g0": 1, "g1": 1, "g2": 1}
    assert given(gpus(0, 0, 1, 1, used=(0,)), {"cuda.device": 3}) == {"g1": 1, "g2": 1, "g3": 1}


def test_a_second_kind_of_device_comes_from_the_same_numa_node() -> None:
    nics = (DeviceState("a-far", "rdma.device", numa=0), DeviceState("b-near", "rdma.device", numa=1))
    chosen = given((*gpus(0, 1, 1), *nics), {"cuda.device": 2, "rdma.device": 1})
    assert chosen == {"g1": 1, "g2": 1, "b-near": 1}


def test_slices_are_given_one_by_one() -> None:
    slices = tuple(DeviceState(f"m{n}", "cuda.1g.5gb-mig", used=int(n == 0)) for n in range(3))
    assert given(slices, {"cuda.1g.5gb-mig": 2}) == {"m1": 1, "m2": 1}
    assert given(slices, {"cuda.1g.5gb-mig": 3}) == {}


def test_an_unhealthy_device_is_not_given_out() -> None:
    broken = (DeviceState("g0", "cuda.device", healthy=False), DeviceState("g1", "cuda.device"))
    assert given(broken, {"cuda.device": 1}) == {"g1": 1}
    decisions = run(a_waiting("s", slots={"cuda.device": 2}), nodes=(a_node(devices=broken),))
    assert decisions.refusals[0].cause is Cause.NEVER_FITS


@pytest.mark.parametrize(("architecture", "expected"), [("", "n1"), ("x86_64", "n1"), ("aarch64", "n2")])
def test_the_architecture_is_kept(architecture: str, expected: str) -> None:
    session = replace(a_waiting("s"), architecture=architecture)
    nodes = (a_node("n1"), a_node("n2", architecture="aarch64"))
    assert nodes_of(run(session, nodes=nodes)) == {"s": [expected]}
