"""The part of a gang's network that lies between nodes: a VXLAN device in the gang's bridge on each of its nodes.

Frames for everybody are sent to each of the gang's other nodes by unicast, so no other node ever gets one. The host's
programs make it: no daemon, no key-value store, nothing that Docker must be told.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent_worker.runtimes.programs import run

PORT = 4789
PREFIX = "mrv"
# Outer Ethernet, IPv4, UDP and VXLAN headers.
_OVERHEAD = 50
_EVERYBODY = "00:00:00:00:00:00"
_PACKAGE = "iproute2"


def device_of(number: int) -> str:
    return f"{PREFIX}{number:06x}"


def mtu_towards(peer: str) -> int:
    """The longest packet that fits into one of the underlay. ProgramFailed where no way leads there."""
    route = json.loads(run(["ip", "-j", "route", "get", peer], package=_PACKAGE))[0]
    link = json.loads(run(["ip", "-j", "link", "show", "dev", route["dev"]], package=_PACKAGE))[0]
    return int(route.get("mtu") or link["mtu"]) - _OVERHEAD


def connect(number: int, bridge: str, underlay: str, peers: Sequence[str], *, mtu: int, owner: str) -> None:
    """The bridge is joined with those of the peers. What is left of an earlier try is made anew."""
    device = device_of(number)
    disconnect(number)
    lines = [
        f"link add {device} mtu {mtu} type vxlan id {number} local {underlay} dstport {PORT}",
        f"link set {device} alias {owner} master {bridge} up",
    ]
    run(["ip", "-batch", "-"], package=_PACKAGE, input="\n".join(lines))
    flood = [f"fdb append {_EVERYBODY} dev {device} dst {peer}" for peer in peers]
    run(["bridge", "-batch", "-"], package=_PACKAGE, input="\n".join(flood))


def disconnect(number: int) -> None:
    if number in numbers():
        run(["ip", "link", "del", device_of(number)], package=_PACKAGE)


def numbers() -> set[int]:
    """Of all overlay devices on this host, whoever made them."""
    links = json.loads(run(["ip", "-j", "link", "show", "type", "vxlan"], package=_PACKAGE) or "[]")
    found = [str(link.get("ifname", "")) for link in links]
    return {int(name.removeprefix(PREFIX), 16) for name in found if name.startswith(PREFIX)}
