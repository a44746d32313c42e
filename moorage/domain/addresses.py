"""Networks that a user may come from."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from moorage.domain.errors import InvalidRequest

MOST_NETWORKS = 64


def checked_networks(texts: Iterable[str]) -> list[str]:
    """Each in its one way of writing: `10.1.2.3/8` is `10.0.0.0/8`, one address is a network of one."""
    found = list(dict.fromkeys(_checked(text) for text in texts))
    if len(found) > MOST_NETWORKS:
        raise InvalidRequest(f"{len(found)} networks; at most {MOST_NETWORKS} are allowed", code="invalid-network")
    return found


def lies_in(address: str, networks: Iterable[str]) -> bool:
    """Whether the address belongs to one of the networks. An IPv4 address in IPv6's clothes is an IPv4 address."""
    try:
        one = ip_address(address)
    except ValueError:
        return False
    if isinstance(one, IPv6Address) and one.ipv4_mapped is not None:
        one = one.ipv4_mapped
    return any(one in ip_network(network) for network in networks)


def _checked(text: str) -> str:
    try:
        return str(ip_network(text.strip(), strict=False))
    except ValueError:
        raise InvalidRequest(
            f"{text[:80]!r} is no network; allowed are for example 10.0.0.0/8, 192.168.1.7 and 2001:db8::/32",
            code="invalid-network",
        ) from None
