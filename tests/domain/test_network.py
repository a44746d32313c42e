"""Networks of gangs: who has which address follows from the size and the place, and nobody has another's."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.domain.network import (
    DEFAULT_POOL,
    addresses_of,
    candidates,
    checked_networks,
    checked_pool,
    gateway_of,
    kernel_networks,
    number_of,
)

sizes = st.one_of(st.integers(2, 40), st.sampled_from([254, 1000, 4096]))


@given(sizes, st.integers(0, 2**64))
def test_each_kernel_and_each_nodes_gateway_has_an_address_of_its_own(size: int, seed: int) -> None:
    subnet = candidates(DEFAULT_POOL, size, seed)[0]
    network = ipaddress.IPv4Network(subnet)
    assert network.subnet_of(ipaddress.IPv4Network(DEFAULT_POOL))
    hosts = ["main1", *(f"sub{n}" for n in range(1, size))]
    given_out = [*addresses_of(subnet, hosts).values(), *(gateway_of(subnet, node) for node in range(size))]
    assert len(set(given_out)) == 2 * size
    ends = {str(network.network_address), str(network.broadcast_address)}
    assert not ends & set(given_out)
    assert all(ipaddress.IPv4Address(one) in network for one in given_out)


@given(sizes, st.integers(0, 2**64))
def test_networks_that_do_not_overlap_have_other_numbers(size: int, seed: int) -> None:
    found = candidates(DEFAULT_POOL, size, seed)
    assert len({number_of(one) for one in found}) == len(set(found)) == len(found)


def test_a_pool_too_small_for_the_gang_has_no_network() -> None:
    assert candidates("10.0.0.0/28", 20, 1) == []
    assert candidates("10.0.0.0/29", 3, 7) == ["10.0.0.0/29"]


@pytest.mark.parametrize("pool", ["10.0.0.0/7", "10.0.0.0/30", "10.0.0.1/9", "fd00::/9", "a pool"])
def test_a_pool_that_can_not_be_one_is_refused(pool: str) -> None:
    with pytest.raises(ValueError, match="10"):
        checked_pool(pool)


def test_networks_in_a_list_are_checked() -> None:
    assert checked_networks(" 10.0.0.0/16, 192.168.0.1 ,") == ["10.0.0.0/16", "192.168.0.1/32"]
    with pytest.raises(ValueError, match="comma separated"):
        checked_networks("10.0.0.1/16")


def test_a_kernel_knows_the_other_nodes_and_its_own_gateway() -> None:
    kernels = [("k1", "main1"), ("k2", "sub1"), ("k3", "sub2")]
    placed = {"k1": "n2", "k2": "n1", "k3": "n2"}
    underlays = {"n1": "192.0.2.1", "n2": "192.0.2.2"}
    found = dict(kernel_networks("open", "10.128.0.0/29", kernels, placed, underlays))
    assert [found[kernel].address for kernel, _ in kernels] == ["10.128.0.4", "10.128.0.5", "10.128.0.6"]
    assert {kernel: one.gateway for kernel, one in found.items()} == {
        "k1": "10.128.0.2",
        "k2": "10.128.0.1",
        "k3": "10.128.0.2",
    }
    assert (found["k1"].underlay, found["k1"].peers) == ("192.0.2.2", ["192.0.2.1"])
    assert (found["k2"].underlay, found["k2"].peers) == ("192.0.2.1", ["192.0.2.2"])
