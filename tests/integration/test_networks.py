"""Networks of sessions on three machines with a Docker engine each.

Buys: kernels of a gang reach each other by name over nodes and nobody else does, nobody reaches the host, a partition
and the loss of a node end as the gang's policy says, and no network, device or rule of a session outlives it.
"""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from tests.support import capture
from tests.support.netns import Node
from tests.support.three_nodes import DATA_PLANE, ThreeNodes

pytestmark = [pytest.mark.docker, pytest.mark.slow]

PORT = 7000
MORE_THAN_HALF = "2.1"  # of the cores of a node
MARK = "marked-by-the-gang"
BIG = 64 * 65536
_BIG = "dd if=/dev/zero of=/tmp/w/big bs=64k count=64 2>/dev/null"
# A kernel that answers each connection with what it is.
SERVE = f"mkdir -p /tmp/w; hostname > /tmp/w/who; echo {MARK} > /tmp/w/mark; {_BIG}; httpd -f -p {PORT} -h /tmp/w"


@contextmanager
def listening(address: str, port: int, kind: int = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """This machine listens there, and answers every connection with `here`."""
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        if kind == socket.SOCK_STREAM:
            listener.listen()
            threading.Thread(target=_answer, args=(listener,), daemon=True).start()
        yield listener


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"here\n")


def run(nodes: ThreeNodes, *on: str, **wish: Any) -> str:
    """An interactive session that serves, on these nodes alone, RUNNING."""
    session_id = nodes.cluster.submit(
        "sh", "-c", SERVE, **{"type": "interactive", "resources": {"cpu": "0.2"}, "agents": list(on), **wish}
    )
    nodes.cluster.wait_for(session_id, "RUNNING")
    return session_id


def a_gang(nodes: ThreeNodes, *on: str, **wish: Any) -> tuple[str, dict[str, Node]]:
    """(session, host name → machine) of a gang with a kernel on each of two of these machines; both serve."""
    gang = {"cluster_size": 2, "cluster_mode": "multi-node", "resources": {"cpu": MORE_THAN_HALF}, **wish}
    session_id = run(nodes, *on, **gang)
    kernels = nodes.cluster.request("GET", f"/session/{session_id}")["kernels"]
    places = {f"{one['role']}{one['idx']}": nodes.node(one["agent"]) for one in kernels}
    for host, node in places.items():
        if host != "main1":
            nodes.inside(node, session_id, "sh", "-c", f"({SERVE}) >/dev/null 2>&1 &", host=host)
    return session_id, places


def ask(
    nodes: ThreeNodes,
    node: Node,
    session_id: str,
    target: str,
    path: str,
    *,
    host: str = "main1",
    of: str = "tail -n 1",
    within_s: int = 5,
) -> str:
    """What a kernel gets from another one; empty if it does not reach it."""
    request = f"printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' | timeout {within_s} nc {target} {PORT} | {of}"
    return nodes.inside(node, session_id, "sh", "-c", request, host=host).strip()


def reach(nodes: ThreeNodes, node: Node, session_id: str, address: str, port: int, *, host: str = "main1") -> str:
    """What is said there to whoever connects."""
    command = f"timeout 5 nc {address} {port} </dev/null"
    return nodes.inside(node, session_id, "sh", "-c", command, host=host).strip()


def address_of(nodes: ThreeNodes, node: Node, session_id: str, host: str = "main1") -> str:
    found = nodes.inside(node, session_id, "sh", "-c", "ip -4 -o addr show dev eth0", host=host)
    return found.split("inet ")[1].split("/")[0]


def end(nodes: ThreeNodes, *sessions: str) -> None:
    for session_id in sessions:
        nodes.cluster.request("DELETE", f"/session/{session_id}", params={"forced": "true"})
    for session_id in sessions:
        nodes.cluster.wait_for(session_id, "TERMINATED")


def gang_devices(node: Node) -> list[str]:
    return [one for one in node.left() if one.startswith(("device mrg", "device mrh", "device mrv"))]


@contextmanager
def captured(node: Node) -> Iterator[dict[str, Any]]:
    """What passed the machine's devices meanwhile, in the dictionary when it is over."""
    found: dict[str, Any] = {}
    command = node.command(sys.executable, str(Path(capture.__file__)), MARK)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tap:
        assert tap.stdout is not None
        assert tap.stdout.readline() == "ready\n"
        yield found
        out, _ = tap.communicate(timeout=20)
    found.update(json.loads(out))


def test_kernels_of_a_gang_reach_each_other_by_name_over_nodes_and_nobody_else_does(three_nodes: ThreeNodes) -> None:
    nodes = three_nodes
    gang, places = a_gang(nodes, "n1", "n2")
    assert sorted(node.name for node in places.values()) == ["n1", "n2"]
    main, sub = places["main1"], places["sub1"]
    others = [nodes.node("n3"), main]
    strangers = [run(nodes, other.name) for other in others]
    second, second_places = a_gang(nodes, "n1", "n2", resources={"cpu": "1"})
    with captured(main) as at_main, captured(sub) as at_sub, captured(nodes.node("n3")) as at_third:
        assert ask(nodes, main, gang, "sub1", "mark") == MARK
        assert ask(nodes, sub, gang, "main1", "mark", host="sub1") == MARK
        assert ask(nodes, main, gang, "sub1", "who") == "sub1"
        assert ask(nodes, sub, gang, "main1", "who", host="sub1") == "main1"
        assert int(ask(nodes, main, gang, "sub1", "big", of="wc -c")) > BIG, "in packets as long as they may be"
    # In clear: it left one node, came to the other, and entered the container there.
    assert at_main["marked"]["eth0"] and at_sub["marked"]["eth0"]
    assert any(device.startswith("veth") for device in at_sub["marked"])
    assert at_third["marked"] == {}
    assert (at_third["overlay"], at_main["overlay"] > 100) == (0, True)

    addresses = [address_of(nodes, main, gang), address_of(nodes, sub, gang, "sub1")]
    for address in addresses:
        for stranger, node in zip(strangers, others, strict=True):
            assert ask(nodes, node, stranger, address, "mark", within_s=1) == ""
        assert ask(nodes, second_places["main1"], second, address, "mark", within_s=1) == "", (
            "another gang on the same nodes"
        )
    assert ask(nodes, others[1], strangers[1], "main1", "who") in ("main1", ""), "a name is one's own"
    lonely = address_of(nodes, others[1], strangers[1])
    assert ask(nodes, main, gang, lonely, "mark", within_s=1) == "", "nor does a gang reach others"
    other = run(nodes, main.name)
    assert ask(nodes, main, other, lonely, "mark", within_s=1) == "", "nor do neighbours of the same bridge"
    assert main.run("sh", "-c", f"printf 'GET /mark HTTP/1.0\\r\\n\\r\\n' | busybox nc {lonely} {PORT}").endswith(
        f"{MARK}\n"
    )

    read = {host: keys_of(nodes, node, gang, host) for host, node in places.items()}
    assert read["main1"] == read["sub1"]
    assert read["main1"] != keys_of(nodes, second_places["main1"], second, "main1")
    end(nodes, gang, second, other, *strangers)
    for node in nodes.lab.nodes:
        assert gang_devices(node) == [], "they go with the last kernel"
    assert nodes.cluster.violations() == "all invariants hold"


def keys_of(nodes: ThreeNodes, node: Node, session_id: str, host: str) -> dict[str, str]:
    """A kernel's SSH files, checked: the user's alone, and a pair."""
    names = ("id_ed25519", "id_ed25519.pub", "authorized_keys", "known_hosts", "config")
    script = 'cd "$MOORAGE_SSH_DIR"; for f in *; do echo "$f $(stat -c %a:%u $f) $(base64 $f | tr -d \'\\n\')"; done'
    lines = [line.split() for line in nodes.inside(node, session_id, "sh", "-c", script, host=host).splitlines()]
    assert {name: mode for name, mode, _ in lines} == dict.fromkeys(names, "400:0")
    found = {name: base64.b64decode(content).decode() for name, _, content in lines}
    pair = load_ssh_private_key(found["id_ed25519"].encode(), None).public_key()
    public = pair.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    assert found["id_ed25519.pub"].strip() == found["authorized_keys"].strip() == public
    return found


def test_sessions_reach_the_world_as_their_policy_says_and_never_the_host(three_nodes: ThreeNodes) -> None:
    nodes, lab = three_nodes, three_nodes.lab
    node = lab.nodes[0]
    open_one = run(nodes, node.name)
    inside = run(nodes, node.name, network="internal")
    nothing = run(nodes, node.name, network="none")
    gang, places = a_gang(nodes, "n1", "n2", network="internal")
    plug = f"{lab.name}-h"
    metadata = "169.254.169.254"
    for address in (metadata, nodes.denied):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", plug], check=True)
    with (
        listening(lab.host, 7100),
        listening(metadata, 7100),
        listening(nodes.denied, 7100),
        listening(lab.host, 4789, socket.SOCK_DGRAM) as overlays,
        listening(lab.host, 4790, socket.SOCK_DGRAM) as others,
    ):
        from_host = "sh", "-c", "busybox nc {} 7100 </dev/null"
        for address in (lab.host, metadata, nodes.denied):
            assert node.run(*(one.format(address) for one in from_host)) == "here\n", "the machine itself reaches it"
        assert reach(nodes, node, open_one, lab.host, 7100) == "here"
        for address in (metadata, nodes.denied):
            assert reach(nodes, node, open_one, address, 7100) == ""
        for session_id in (inside, nothing):
            assert reach(nodes, node, session_id, lab.host, 7100) == ""
        assert reach(nodes, places["main1"], gang, lab.host, 7100) == ""
        assert ask(nodes, places["main1"], gang, "sub1", "who") == "sub1", "its own it reaches"
        # Whoever could write to that port could write into the networks of gangs.
        for port in (4789, 4790):
            send = f"timeout 1 tftp -g -r from-a-session -l /tmp/x {lab.host} {port}"
            nodes.inside(node, open_one, "sh", "-c", send)
        others.settimeout(5)
        assert b"from-a-session" in others.recv(1000)
        overlays.setblocking(False)
        with pytest.raises(BlockingIOError):
            overlays.recv(1000)
    # The data plane answers whoever reaches it with words of HTTP, also to nonsense.
    assert "HTTP" in node.run("sh", "-c", f"echo nonsense | busybox nc {node.address} {DATA_PLANE}")
    for session_id in (open_one, inside):
        for address in (node.address, gateway_of(nodes, node, open_one), "172.17.0.1"):
            command = f"echo nonsense | timeout 2 nc {address} {DATA_PLANE}"
            assert nodes.inside(node, session_id, "sh", "-c", command) == ""
    interfaces = nodes.inside(node, open_one, "cat", "/proc/net/if_inet6").split("\n")
    assert all(line.split()[-1:] in ([], ["lo"]) for line in interfaces), "no IPv6, so no metadata over it either"
    assert nodes.inside(node, nothing, "ls", "/sys/class/net").split() == ["lo"]
    end(nodes, open_one, inside, nothing, gang)


def gateway_of(nodes: ThreeNodes, node: Node, session_id: str) -> str:
    return nodes.inside(node, session_id, "sh", "-c", "ip route show default").split()[2]


def test_rules_that_somebody_flushed_are_made_again(three_nodes: ThreeNodes) -> None:
    node = three_nodes.lab.nodes[1]
    for chain in ("DOCKER-USER", "INPUT", "MOORAGE-FORWARD"):
        node.run("iptables", "-F", chain)

    def holds() -> bool:
        rules = node.run("iptables", "-S")
        return "-A INPUT -i mr+ -j MOORAGE-INPUT" in rules and "-A DOCKER-USER -j MOORAGE-FORWARD" in rules

    three_nodes.cluster.until(holds, "they are there again", within_s=20)
    assert "-A MOORAGE-FORWARD -d 169.254.0.0/16 -i mr+ -j REJECT" in node.run("iptables", "-S")


def test_a_partition_ends_or_moves_a_gang_and_nothing_of_it_is_left_when_it_heals(three_nodes: ThreeNodes) -> None:
    nodes = three_nodes
    elsewhere = run(nodes, "n3", resources={"cpu": "3"})
    moves, before = a_gang(nodes, "n1", "n2", "n3", on_node_loss="requeue")
    stays, _ = a_gang(nodes, "n1", "n2", resources={"cpu": "1.8"}, on_node_loss="fail")
    end(nodes, elsewhere)
    cut = before["sub1"]
    nodes.stop_agent(before["main1"], signal.SIGKILL)  # and its successor, that made no network, removes them
    nodes.start_agent(before["main1"])
    nodes.until_alive(before["main1"])
    cut.cut()
    lost = nodes.cluster.wait_for(stays, "ERROR")
    assert lost["reason"] == "node-lost"
    nodes.cluster.until(lambda: nodes.cluster.request("GET", f"/session/{moves}")["attempt"] == 1, "it is requeued")
    again = nodes.cluster.wait_for(moves, "RUNNING")
    after = {f"{one['role']}{one['idx']}": nodes.node(one["agent"]) for one in again["kernels"]}
    assert cut not in after.values()
    nodes.inside(after["sub1"], moves, "sh", "-c", f"({SERVE}) >/dev/null 2>&1 &", host="sub1")
    assert ask(nodes, after["main1"], moves, "sub1", "who") == "sub1"
    assert nodes.cluster.violations() == "all invariants hold"
    assert gang_devices(cut), "what nobody could reach is still there"

    cut.heal()
    nodes.until_alive(cut)
    nodes.cluster.until(lambda: gang_devices(cut) == [], "what was left there is gone", within_s=30)
    assert ask(nodes, after["main1"], moves, "sub1", "who") == "sub1"
    end(nodes, moves)
    nodes.cluster.until(lambda: not any(gang_devices(node) for node in nodes.lab.nodes), "no network is left")
    assert nodes.cluster.violations() == "all invariants hold"
