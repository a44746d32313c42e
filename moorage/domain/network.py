"""What a session may reach, and the network of a gang: who has which address follows from the place in the gang."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

DEFAULT_POOL = "10.128.0.0/9"
# A network's number in the overlay is the end of its address: it must be unique within the pool.
_WIDEST_POOL = 8
_CANDIDATES = 64


class NetworkPolicy(StrEnum):
    """`open`: the world; `internal`: the session's own kernels; `none`: loopback alone. Never the host, nor others."""

    OPEN = "open"
    INTERNAL = "internal"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class KernelNetwork:
    """What a kernel may reach; of a gang also where it is in the gang's own network."""

    policy: str = NetworkPolicy.OPEN
    subnet: str = ""  # the gang's own, as 10.128.0.0/29; empty for a session of one kernel
    address: str = ""
    gateway: str = ""  # of this node; each node of the gang has another one
    underlay: str = ""  # this node's address between nodes
    peers: list[str] = field(default_factory=list)  # those of the gang's other nodes


def checked_pool(pool: str) -> ipaddress.IPv4Network:
    """The pool that gangs' networks are taken from. ValueError in words."""
    try:
        network = ipaddress.IPv4Network(pool)
    except ValueError as error:
        raise ValueError(f"{pool!r} is no IPv4 network such as {DEFAULT_POOL}: {error}") from None
    if not _WIDEST_POOL <= network.prefixlen <= 29:
        raise ValueError(f"{pool!r} is too wide or too small; allowed are /{_WIDEST_POOL} to /29")
    return network


def checked_networks(text: str) -> list[str]:
    """IPv4 networks, comma separated. ValueError in words."""
    try:
        return [str(ipaddress.IPv4Network(one.strip())) for one in text.split(",") if one.strip()]
    except ValueError as error:
        raise ValueError(f"allowed are IPv4 networks such as 10.0.0.0/16, comma separated: {error}") from None


def candidates(pool: str, kernels: int, seed: int) -> list[str]:
    """Networks of the pool that hold a gang of that size, from a place that the seed says: two clusters on one machine
    hardly ever choose the same. Empty if the pool is smaller than the gang.
    """
    whole = checked_pool(pool)
    prefix = 32 - (2 * kernels + 1).bit_length()  # a gateway and an address for each, the first and the last
    if prefix < whole.prefixlen:
        return []
    size, count = 2 ** (32 - prefix), 2 ** (prefix - whole.prefixlen)
    first = int(whole.network_address)
    places = ((seed + number) % count for number in range(min(_CANDIDATES, count)))
    return [str(ipaddress.IPv4Network((first + place * size, prefix))) for place in places]


def gateway_of(subnet: str, node: int) -> str:
    """Of the gang's n-th node. One address for all of them would answer from any of them."""
    return str(ipaddress.IPv4Network(subnet)[1 + node])


def addresses_of(subnet: str, hosts: Sequence[str]) -> dict[str, str]:
    """Host name → address of all kernels of a gang, the main one first; behind as many gateways."""
    network = ipaddress.IPv4Network(subnet)
    return {host: str(network[1 + len(hosts) + place]) for place, host in enumerate(hosts)}


def number_of(subnet: str) -> int:
    """The VXLAN network identifier (24 bits)."""
    return int(ipaddress.IPv4Network(subnet).network_address) & 0xFFFFFF


def kernel_networks(
    policy: str, subnet: str, kernels: Sequence[tuple[str, str]], placed: dict[str, str], underlays: dict[str, str]
) -> Iterator[tuple[str, KernelNetwork]]:
    """(kernel, its network) of a gang. `kernels`: (id, host name), main first; `underlays`: node → address."""
    nodes = sorted({placed[kernel] for kernel, _ in kernels if kernel in placed})
    addresses = addresses_of(subnet, [host for _, host in kernels])
    for kernel, host in kernels:
        if kernel in placed:
            node = placed[kernel]
            yield (
                kernel,
                KernelNetwork(
                    policy,
                    subnet,
                    addresses[host],
                    gateway_of(subnet, nodes.index(node)),
                    underlays.get(node, ""),
                    [underlays.get(other, "") for other in nodes if other != node],
                ),
            )
