"""A node that dies and comes back, on real Temporal and PostgreSQL with the simulated runtime.

Buys: no session hangs on a lost node, what it held is fenced until proven free, requeued sessions run elsewhere once.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    environment = {"MOORAGE_AGENT_DISK_BYTES": str(1024**3)}
    folder = Path(tmp_path_factory.mktemp("cluster"))
    cluster = Cluster(folder, runtime="simulated", agents=2, environment=environment)
    yield cluster
    cluster.close()


def agent_of(cluster: Cluster, agent_id: str) -> dict[str, object]:
    return next(one for one in cluster.request("GET", "/agent")["items"] if one["id"] == agent_id)


def test_a_lost_node_ends_or_moves_its_sessions_and_comes_back_clean(cluster: Cluster) -> None:
    stays = cluster.submit("sleep", "600")
    node = str(cluster.wait_for(stays, "RUNNING")["agent"])
    moves = cluster.submit("sleep", "600", on_node_loss="requeue")
    assert cluster.wait_for(moves, "RUNNING")["agent"] == node, "concentrated fills one node first"

    pid = cluster.pid(node)
    os.kill(pid, signal.SIGSTOP)  # as if the network were cut: it neither answers nor dies
    lost = cluster.wait_for(stays, "ERROR")
    assert lost["reason"] == "node-lost"
    assert agent_of(cluster, node)["status"] == "LOST"
    cluster.until(lambda: cluster.request("GET", f"/session/{moves}")["attempt"] == 1, "it is requeued")
    assert cluster.wait_for(moves, "RUNNING")["agent"] != node
    assert cluster.violations() == "all invariants hold"

    os.kill(pid, signal.SIGCONT)
    cluster.until(lambda: agent_of(cluster, node)["status"] == "ALIVE", "the node is back")
    cluster.until(lambda: agent_of(cluster, node)["sessions"] == 0, "what it held is released")
    assert cluster.request("DELETE", f"/session/{moves}", params={"forced": "true"})["http_status"] == 202
    assert cluster.wait_for(moves, "TERMINATED")["reason"] == "force-terminated"
    cluster.until(lambda: cluster.request("GET", "/resource")["slots"]["cpu"]["used"] == 0, "all cores are free")
    assert cluster.violations() == "all invariants hold"


def test_a_session_that_outlives_its_lifetime_is_destroyed(cluster: Cluster) -> None:
    session_id = cluster.submit("sleep", "600", lifetime_s=1)
    end = cluster.wait_for(session_id, "TERMINATED", "ERROR")
    assert (end["status"], end["reason"]) == ("TERMINATED", "lifetime-exceeded")


def test_a_session_that_waits_too_long_is_cancelled(cluster: Cluster) -> None:
    capacity = cluster.request("GET", "/agent")["items"][0]["slots"]["cpu"]["capacity"] // 1000
    blockers = [cluster.submit("sleep", "600", resources={"cpu": str(capacity)}) for _ in range(2)]
    for blocker in blockers:
        cluster.wait_for(blocker, "RUNNING")
    waiting = cluster.submit("true", pending_timeout_s=1)
    end = cluster.wait_for(waiting, "CANCELLED", "ERROR", "TERMINATED")
    assert (end["status"], end["reason"]) == ("CANCELLED", "pending-timeout")
    for blocker in blockers:
        cluster.request("DELETE", f"/session/{blocker}", params={"forced": "true"})
        cluster.wait_for(blocker, "TERMINATED")


def test_a_container_that_is_refused_everywhere_ends_with_the_first_cause(cluster: Cluster) -> None:
    session_id = cluster.submit("true", env={"MOORAGE_SIM_FAIL_CREATE": "1"})
    end = cluster.wait_for(session_id, "ERROR", "TERMINATED")
    assert (end["status"], end["reason"], end["attempt"]) == ("ERROR", "failed-to-create", 2)
    assert "told to refuse" in end["status_info"]
    assert cluster.steps(session_id).count("PENDING") == 3
    assert cluster.violations() == "all invariants hold"


def test_a_container_killed_for_its_memory_says_so(cluster: Cluster) -> None:
    session_id = cluster.submit("true", env={"MOORAGE_SIM_OOM": "1", "MOORAGE_SIM_RUN_S": "0"})
    end = cluster.wait_for(session_id, "ERROR", "TERMINATED")
    assert (end["status"], end["reason"], end["result"]) == ("TERMINATED", "oom-killed", "FAILURE")


def test_a_session_that_fills_the_disk_of_its_node_is_ended_with_the_numbers(cluster: Cluster) -> None:
    session_id = cluster.submit("sleep", "600", env={"MOORAGE_SIM_DISK": str(3 * 1024**3)})
    end = cluster.wait_for(session_id, "TERMINATED", "ERROR")
    assert (end["status"], end["reason"], end["result"]) == ("TERMINATED", "disk-exceeded", "FAILURE")
    assert end["status_info"] == "it wrote 3 GiB to its disk, more than the 1 GiB that its node allows"


def test_a_stubborn_session_is_killed_when_the_stop_is_forced(cluster: Cluster) -> None:
    session_id = cluster.submit("sleep", "600", env={"MOORAGE_SIM_IGNORE_STOP": "1"}, grace_s=600)
    cluster.wait_for(session_id, "RUNNING")
    cluster.request("DELETE", f"/session/{session_id}")
    cluster.wait_for(session_id, "TERMINATING")
    cluster.request("DELETE", f"/session/{session_id}", params={"forced": "true"})
    assert cluster.wait_for(session_id, "TERMINATED", within_s=30)["reason"] == "user-requested"
