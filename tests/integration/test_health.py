"""Sessions that fall ill or fall over, in a whole cluster on Docker.

Buys: that probes, the restart policy and the last lines work from the node to the API, and over a killed agent.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.docker, pytest.mark.slow]
# Well as long as it has its file; listens at its loopback address alone.
SERVER = ("sh", "-c", "echo up > /tmp/ready; exec busybox httpd -f -p 127.0.0.1:8080 -h /tmp")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(Path(tmp_path_factory.mktemp("cluster")), runtime="docker")
    yield cluster
    cluster.close()


def until_health(cluster: Cluster, session_id: str, health: str, *, attempt: int) -> dict[str, Any]:
    def look() -> dict[str, Any]:
        return cluster.request("GET", f"/session/{session_id}")

    cluster.until(lambda: (look()["attempt"], look()["health_status"]) == (attempt, health), f"{health} as {attempt}")
    return look()


def told(cluster: Cluster, session_id: str, status: str) -> list[tuple[str, str]]:
    events = cluster.request("GET", f"/session/{session_id}/events")["items"]
    return [(event["reason"], event["message"]) for event in events if event["to_status"] == status and event["reason"]]


def test_a_server_that_falls_ill_starts_again_in_its_place_though_the_agent_was_killed(cluster: Cluster) -> None:
    health = {"start": {"port": 8080}, "live": {"command": ["cat", "/tmp/ready"], "every_s": 1, "failures": 2}}
    server = cluster.submit(*SERVER, type="interactive", health=health, restart_policy="on-failure")
    before = until_health(cluster, server, "healthy", attempt=0)
    cluster.kill("node1")
    body = {"command": ["rm", "/tmp/ready"]}
    cluster.until(lambda: cluster.request("POST", f"/session/{server}/exec", json=body)["http_status"] == 200, "broken")
    after = until_health(cluster, server, "healthy", attempt=1)
    assert (after["status"], after["restarts"], after["agent"]) == ("RUNNING", 1, before["agent"])
    assert after["kernels"][0]["container"] != before["kernels"][0]["container"]
    ill = "exit code 1: cat: can't open '/tmp/ready': No such file or directory (2 times in a row)"
    assert told(cluster, server, "RESTARTING") == [("unhealthy", f"{ill}; restart 1 of 5 in 1 s")]
    lines = [message.split(" after")[0] for reason, message in told(cluster, server, "RUNNING") if reason == "health"]
    assert lines == ["healthy: ready", f"unhealthy: {ill}", "healthy: ready"]
    cluster.request("DELETE", f"/session/{server}", params={"forced": "true"})
    cluster.wait_for(server, "TERMINATED")


def test_a_crash_loop_ends_as_an_error_with_its_last_lines(cluster: Cluster) -> None:
    command = ("sh", "-c", 'echo "token $TOKEN"; echo out of ideas; exit 3')
    policy: dict[str, Any] = {"restart_policy": "always", "max_restarts": 1}
    looping = cluster.submit(*command, type="interactive", env={"TOKEN": "hunter2"}, **policy)
    ended = cluster.wait_for(looping, "ERROR")
    assert (ended["reason"], ended["exit_code"], ended["restarts"]) == ("crash-loop", 3, 1)
    assert ended["status_info"] == "exit code 3; it was started again once, and not once more"
    assert ended["last_lines"] == "token [hidden]\nout of ideas"
