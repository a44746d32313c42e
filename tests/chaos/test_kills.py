"""kill -9 of each process at each step of a life, on real parts.

Buys: the session reaches the same end, one container at most ever ran for it, what it held is released once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PARTS = ["api", "worker", "node1", "temporal", "postgres"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(Path(tmp_path_factory.mktemp("cluster")), runtime="docker")
    yield cluster
    cluster.close()


def starts_of(session_id: str, created_at: str) -> int:
    """How often Docker started a container of the session."""
    command = ["docker", "events", "--since", created_at, "--until", "0s", "--filter", "event=start"]
    found = subprocess.run(
        [*command, "--filter", f"label=moorage.session={session_id}"], capture_output=True, text=True, check=True
    )
    return len(found.stdout.splitlines())


def containers_of(session_id: str) -> str:
    command = ["docker", "ps", "-aq", "--filter", f"label=moorage.session={session_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def assert_nothing_is_left(cluster: Cluster, session_id: str) -> None:
    session = cluster.request("GET", f"/session/{session_id}")
    assert starts_of(session_id, session["created_at"]) <= 1
    assert containers_of(session_id) == ""
    cluster.until(lambda: cluster.request("GET", "/resource")["slots"]["cpu"]["used"] == 0, "all cores are free")
    assert cluster.violations() == "all invariants hold"


@pytest.mark.parametrize("part", PARTS)
def test_a_queued_session_survives_the_death_of(part: str, cluster: Cluster) -> None:
    cores = cluster.request("GET", "/resource")["slots"]["cpu"]["capacity"] // 1000
    blocker = cluster.submit("sleep", "600", resources={"cpu": str(cores)})
    cluster.wait_for(blocker, "RUNNING")
    waiting = cluster.submit("sh", "-c", "exit 7")
    cluster.kill(part)
    assert cluster.request("DELETE", f"/session/{blocker}", params={"forced": "true"})["http_status"] == 202
    end = cluster.wait_for(waiting, "TERMINATED", "ERROR", "CANCELLED")
    assert (end["status"], end["exit_code"], end["reason"]) == ("TERMINATED", 7, "self-terminated")
    cluster.wait_for(blocker, "TERMINATED")
    assert_nothing_is_left(cluster, waiting)


@pytest.mark.parametrize("part", PARTS)
def test_a_session_being_created_survives_the_death_of(part: str, cluster: Cluster) -> None:
    session_id = cluster.submit("sh", "-c", "exit 7")
    cluster.wait_for(session_id, "SCHEDULED", "CREATING", "RUNNING", "TERMINATED")
    cluster.kill(part)
    end = cluster.wait_for(session_id, "TERMINATED", "ERROR", "CANCELLED")
    assert (end["status"], end["exit_code"], end["reason"]) == ("TERMINATED", 7, "self-terminated")
    assert_nothing_is_left(cluster, session_id)


@pytest.mark.parametrize("part", PARTS)
def test_a_running_session_survives_the_death_of(part: str, cluster: Cluster) -> None:
    session_id = cluster.submit("sh", "-c", "sleep 3; exit 7")
    cluster.wait_for(session_id, "RUNNING")
    cluster.kill(part)
    end = cluster.wait_for(session_id, "TERMINATED", "ERROR", "CANCELLED")
    assert (end["status"], end["exit_code"], end["reason"]) == ("TERMINATED", 7, "self-terminated")
    assert_nothing_is_left(cluster, session_id)


@pytest.mark.parametrize("part", PARTS)
def test_a_session_being_stopped_ends_after_the_death_of(part: str, cluster: Cluster) -> None:
    stubborn = "trap '' TERM; while true; do sleep 1; done"
    session_id = cluster.submit("sh", "-c", stubborn, grace_s=2)
    cluster.wait_for(session_id, "RUNNING")
    assert cluster.request("DELETE", f"/session/{session_id}")["http_status"] == 202
    cluster.kill(part)
    end = cluster.wait_for(session_id, "TERMINATED", "ERROR", "CANCELLED")
    assert (end["status"], end["reason"]) == ("TERMINATED", "user-requested")
    assert_nothing_is_left(cluster, session_id)


def test_one_idempotency_key_makes_one_session_though_the_gateway_dies(cluster: Cluster) -> None:
    first = cluster.submit("true", key="once")
    cluster.kill("api")
    assert cluster.submit("true", key="once") == first
    cluster.wait_for(first, "TERMINATED")
    assert_nothing_is_left(cluster, first)
