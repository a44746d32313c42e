"""A device that fails while a session holds it: found on the node, known everywhere, told to the session, and over.

Buys: the accelerators' health works through agent, report, ledger, scheduler and API on real parts, over a restart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]
FOREVER = ("sleep", "infinity")
ONE_GPU: dict[str, Any] = {"resources": {"cpu": "1", "cuda.device": "1"}}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    environment = {
        "MOORAGE_AGENT_CPU": "8",
        "MOORAGE_AGENT_SIMULATED_DEVICES": "cuda.device=2:model=H100:memory=80g",
    }
    cluster = Cluster(tmp_path, runtime="simulated", environment=environment)
    yield cluster
    cluster.close()


def happens(cluster: Cluster, **devices: dict[str, object]) -> None:
    """What happens to the node's devices from now on, by number."""
    folder = cluster.folder / "agents" / "node1"
    partial = folder / "simulated-devices.partial"
    partial.write_text(json.dumps({f"cuda.device-{name[1:]}": one for name, one in devices.items()}))
    partial.replace(folder / "simulated-devices.json")


def device(cluster: Cluster, device_id: str) -> dict[str, Any]:
    [node] = cluster.request("GET", "/agent")["items"]
    return next(dict(one) for one in node["devices"] if one["id"] == device_id)


def told(cluster: Cluster, session_id: str) -> list[str]:
    events = cluster.request("GET", f"/session/{session_id}/events")["items"]
    return [str(event["message"]) for event in events if event["reason"] == "device-health"]


def test_a_failing_device_is_known_everywhere_and_its_session_goes_on(cluster: Cluster) -> None:
    holder, other = [cluster.submit(*FOREVER, **ONE_GPU) for _ in range(2)]
    for session_id in (holder, other):
        cluster.wait_for(session_id, "RUNNING")
    assert (device(cluster, "cuda.device-0")["model"], device(cluster, "cuda.device-0")["memory"]) == (
        "H100",
        80 * 1024**3,
    )
    happens(cluster, n0={"fault": "fell off the bus"}, n1={"fault": "fell off the bus"})
    cluster.until(lambda: told(cluster, holder) and told(cluster, other), "both are told")
    happens(cluster, n0={"fault": "fell off the bus"})
    cluster.until(lambda: len(told(cluster, holder) + told(cluster, other)) == 3, "one device is well again")
    [ill] = [one for one in (holder, other) if len(told(cluster, one)) == 1]
    message = "device cuda.device-0 of node node1 is unhealthy: fell off the bus"
    assert told(cluster, ill) == [message]
    shown = cluster.request("GET", f"/session/{ill}")
    assert (shown["status"], shown["status_info"]) == ("RUNNING", message)
    assert device(cluster, "cuda.device-0")["reason"] == "fell off the bus"
    assert "fell off the bus" in cluster.moor("agents", "show", "node1").stdout

    for session_id in (holder, other):
        cluster.request("DELETE", f"/session/{session_id}", params={"forced": "true"})
        cluster.wait_for(session_id, "TERMINATED")
    healthy = cluster.submit(*FOREVER, **ONE_GPU)
    cluster.wait_for(healthy, "RUNNING")
    assert device(cluster, "cuda.device-1")["used"] == 1
    waits = cluster.submit(*FOREVER, **ONE_GPU)
    cluster.until(lambda: cluster.request("GET", f"/session/{waits}")["status_info"], "a pass has refused it")

    restart_agent(cluster)
    assert device(cluster, "cuda.device-0")["healthy"] is False, "the fault stands"
    assert cluster.request("GET", f"/session/{waits}")["status"] == "PENDING"
    assert told(cluster, healthy) == []

    happens(cluster)
    cluster.wait_for(waits, "RUNNING")
    now = device(cluster, "cuda.device-0")
    assert (now["healthy"], now["reason"], now["used"]) == (True, "", 1)
    assert cluster.violations() == "all invariants hold"


def test_a_fault_is_told_once_however_often_the_agent_starts_with_it(cluster: Cluster) -> None:
    holder = cluster.submit(*FOREVER, resources={"cpu": "1", "cuda.device": "2"})
    cluster.wait_for(holder, "RUNNING")
    happens(cluster, n1={"fault": "worn out"})
    restart_agent(cluster)
    cluster.until(lambda: told(cluster, holder), "it is told")
    restart_agent(cluster)
    assert told(cluster, holder) == ["device cuda.device-1 of node node1 is unhealthy: worn out"]
    assert cluster.request("GET", f"/session/{holder}")["status"] == "RUNNING"


def restart_agent(cluster: Cluster) -> None:
    """kill -9; returns when its successor has registered."""
    before = registrations(cluster)
    cluster.kill("node1")
    cluster.until(lambda: registrations(cluster) > before, "the agent has registered again")


def registrations(cluster: Cluster) -> int:
    return (cluster.folder / "logs" / "node1.log").read_text().count('"registered"')
