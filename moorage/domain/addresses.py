"""Addresses that a user may ask from: single ones, networks (10.0.0.0/16), and wildcards (10.0.*.*)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from moorage.domain.errors import InvalidRequest

AT_MOST = 100


def checked_addresses(written: Iterable[str]) -> list[str]:
    """What may be stored, each once, as it was written; refuses what is neither address, network nor wildcard."""
    found = list(dict.fromkeys(one.strip() for one in written))
    if len(found) > AT_MOST:
        raise InvalidRequest(f"{len(found)} addresses; at most {AT_MOST} are allowed", code="malformed-address")
    for one in found:
        try:
            _network(one)
        except ValueError as error:
            raise InvalidRequest(
                f"{one[:80]!r} is no address: {str(error)[:120]}",
                code="malformed-address",
                hint="allowed are 10.0.0.7, 10.0.0.0/16, 10.0.*.* and the same of IPv6",
                data={"unknown": one[:80]},
            ) from None
    return found


def is_allowed(address: str, allowed: tuple[str, ...]) -> bool:
    """Whether the address lies within one of these; nothing allowed means everywhere. An unknown one lies nowhere."""
    return not allowed or _lies_within(address, allowed)


@lru_cache(maxsize=4096)
def _lies_within(address: str, allowed: tuple[str, ...]) -> bool:
    try:
        asked = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    asked = _plain(asked)
    return any(asked in network for network in _networks(allowed))


@lru_cache(maxsize=1024)
def _networks(written: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(_network(one) for one in written)


def _network(written: str) -> IPv4Network | IPv6Network:
    if "*" not in written:
        return ip_network(written)
    parts = written.split(".")
    fixed = [part for part in parts if part != "*"]
    if len(parts) != 4 or parts[: len(fixed)] != fixed:
        raise ValueError("a wildcard has four parts, and stars only at its end")
    return ip_network(f"{'.'.join(fixed + ['0'] * (4 - len(fixed)))}/{8 * len(fixed)}")


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address that a socket for both shows as ::ffff:10.0.0.7 is that IPv4 address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
