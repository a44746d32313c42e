"""A cluster on three machines of a lab: an agent with a Docker engine of its own on each, the control plane outside.

Tests share one (the fixture `three_nodes`); `scripts/three-nodes.py` runs one to try things by hand.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from moorage.cli.profile import read_toml
from moorage.cli.up.state import Place, read_run
from tests.support.cluster import Cluster
from tests.support.netns import Lab, Node, each
from tests.support.relay import Relay

IMAGES = ("moorage-test-busybox:1",)
DATA_PLANE = 8100
CPU = 4


class ThreeNodes:
    """`cluster` is the control plane; its own node takes nothing."""

    def __init__(self, folder: Path) -> None:
        self.lab = Lab(folder / "lab")
        self.denied = f"{self.lab.subnet}.200"  # no session may reach it
        self._agents: dict[str, int] = {}
        try:
            self.lab.start(IMAGES)
            self.cluster = Cluster(folder / "cluster", runtime="simulated")
        except BaseException:
            self.lab.stop()
            raise
        record = read_run(Place(self.cluster.folder))
        assert record is not None
        self._relay = Relay(self.lab.host, int(record.temporal.rpartition(":")[2]))
        self._environment = self._common(record.cluster)
        self.cluster.moor("agents", "cordon", "node1")
        for node in self.lab.nodes:
            self.start_agent(node)
        for node in self.lab.nodes:
            self.until_alive(node)

    def close(self) -> dict[str, list[str]]:
        """Returns what the agents, when they had ended, have left on their nodes: it should be nothing."""
        each(self.lab.nodes, self.stop_agent)
        left = {node.name: found for node in self.lab.nodes if (found := node.left())}
        self.cluster.close()
        self._relay.close()
        self.lab.stop()
        return left

    def node(self, name: str) -> Node:
        return next(one for one in self.lab.nodes if one.name == name)

    def start_agent(self, node: Node) -> None:
        environment = self._environment | {
            "DOCKER_HOST": node.socket,
            "MOORAGE_AGENT_ID": node.name,
            "MOORAGE_AGENT_DATA_DIR": str(node.folder / "agent"),
            "MOORAGE_AGENT_HOST": node.address,
        }
        process = node.start(sys.executable, "-P", "-m", "agent_worker.main", env=environment, log="agent.log")
        self._agents[node.name] = process.pid

    def stop_agent(self, node: Node, how: signal.Signals = signal.SIGTERM) -> None:
        """Its process is gone. Containers stay."""
        pid = self._agents.pop(node.name, 0)
        for process in [one for one in node.processes if one.pid == pid]:
            process.send_signal(how)
            process.wait(20)
            node.processes.remove(process)

    def until_alive(self, node: Node) -> None:
        self.cluster.until(lambda: self.status(node) == "ALIVE", f"{node.name} is there")

    def status(self, node: Node) -> str:
        found = [one for one in self.cluster.request("GET", "/agent")["items"] if one["id"] == node.name]
        return str(found[0]["status"]) if found else ""

    def inside(self, node: Node, session_id: str, *command: str, host: str = "main1") -> str:
        """What a command writes to its standard output in a session's kernel on that machine."""
        client = node.engine()
        found = client.containers(filters={"label": f"moorage.session={session_id}"})
        [container] = [one["Id"] for one in found if _hostname(client.inspect_container(one["Id"])) == host]
        made = client.exec_create(container, list(command), stderr=False)["Id"]
        return bytes(client.exec_start(made)).decode(errors="replace")

    def _common(self, cluster: str) -> dict[str, str]:
        keys = read_toml(self.cluster.folder / "keys.toml")
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        return outer | {
            "MOORAGE_CLUSTER": cluster,
            "MOORAGE_TEMPORAL_ADDRESS": f"{self.lab.host}:{self._relay.port}",
            "MOORAGE_PAYLOAD_KEYS": keys["payload_keys"],
            "MOORAGE_DATAPLANE_KEY": keys["dataplane_key"],
            "MOORAGE_AGENT_PORT": str(DATA_PLANE),
            "MOORAGE_AGENT_CPU": str(CPU),
            "MOORAGE_AGENT_MEM": "2g",
            "MOORAGE_AGENT_NAMESPACES": "1",
            "MOORAGE_AGENT_EGRESS_DENY": self.denied,
        }


def _hostname(inspected: dict[str, dict[str, str]]) -> str:
    """A container in a namespace made ahead has none of its own: that one's is main1."""
    return inspected["Config"].get("Hostname") or "main1"
