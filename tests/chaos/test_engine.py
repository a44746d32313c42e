"""Docker itself in trouble: restarted under the agent, its disk full, and strangers at its containers.

Buys: each session ends with a cause that is true, its resources come free, the node goes on by itself.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster
from tests.support.own_engine import OwnEngine

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture(scope="module")
def engine() -> Iterator[OwnEngine]:
    engine = OwnEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def cluster(engine: OwnEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = Path(tmp_path_factory.mktemp("cluster"))
    cluster = Cluster(folder, runtime="docker", environment={"MOORAGE_AGENT_DOCKER_HOST": engine.address})
    yield cluster
    cluster.close()


def node(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.request("GET", "/agent")["items"][0]
    return found


def a_running(cluster: Cluster, **wish: Any) -> str:
    session_id = cluster.submit("sleep", "600", **wish)
    cluster.wait_for(session_id, "RUNNING")
    return session_id


def assert_nothing_is_left(cluster: Cluster, engine: OwnEngine, *sessions: str) -> None:
    cluster.until(lambda: not any(engine.containers_of(one) for one in sessions), "their containers are gone")
    cluster.until(lambda: node(cluster)["slots"]["cpu"]["used"] == 0, "all cores are free")
    assert cluster.violations() == "all invariants hold"


def test_docker_dies_under_the_agent_and_is_started_again(cluster: Cluster, engine: OwnEngine) -> None:
    """Without live-restore its containers end. What is asked meanwhile waits."""
    before = node(cluster)
    running = a_running(cluster)
    engine.stop(signal.SIGKILL)
    meanwhile = cluster.submit("sh", "-c", "exit 7")
    cluster.wait_for(meanwhile, "CREATING")
    engine.start()
    ended = cluster.wait_for(running, "TERMINATED", "ERROR", within_s=15)
    assert (ended["status"], ended["reason"]) == ("TERMINATED", "signalled")
    end = cluster.wait_for(meanwhile, "TERMINATED", "ERROR")
    assert (end["exit_code"], end["attempt"]) == (7, 0), "it was not refused"
    assert node(cluster)["last_seen"] == before["last_seen"], "the node was never lost"
    assert_nothing_is_left(cluster, engine, running, meanwhile)


def test_its_disk_is_full(cluster: Cluster, engine: OwnEngine) -> None:
    running = a_running(cluster)
    with engine.full():
        refused = cluster.submit("true")
        end = cluster.wait_for(refused, "ERROR", "TERMINATED", within_s=30)
        assert (end["status"], end["reason"]) == ("ERROR", "failed-to-create")
        assert "no space left on device" in end["status_info"]
        assert end["status_info"].endswith("(on node1)")
        cluster.request("DELETE", f"/session/{running}", params={"forced": "true"})
        assert cluster.wait_for(running, "TERMINATED", "ERROR", within_s=30)["reason"] == "force-terminated"
    after = cluster.submit("sh", "-c", "exit 7")
    assert cluster.wait_for(after, "TERMINATED", "ERROR", within_s=30)["exit_code"] == 7
    assert_nothing_is_left(cluster, engine, refused, running, after)


def test_a_container_is_removed_and_one_restarted_by_hand(cluster: Cluster, engine: OwnEngine) -> None:
    removed, restarted = a_running(cluster), a_running(cluster)
    [first], [second] = engine.containers_of(removed), engine.containers_of(restarted)
    engine.client.remove_container(first, force=True)
    engine.client.restart(second, timeout=0)
    for session_id in (removed, restarted):
        end = cluster.wait_for(session_id, "TERMINATED", "ERROR", within_s=5)
        assert end["reason"] == "signalled", "not the end of a life that goes on"
    assert_nothing_is_left(cluster, engine, removed, restarted)


def test_an_agent_dies_in_a_pull_that_goes_nowhere(cluster: Cluster, engine: OwnEngine) -> None:
    """A stop does not wait for the pull, and what is asked next is done."""
    with engine.registry_that_never_answers() as registry:
        pulled = cluster.submit("true", image=f"{registry}/slow:1")
        cluster.wait_for(pulled, "PREPARING")
        cluster.kill("node1")
        cluster.request("DELETE", f"/session/{pulled}")
        assert cluster.wait_for(pulled, "TERMINATED", "ERROR", within_s=30)["reason"] == "user-requested"
        after = cluster.submit("sh", "-c", "exit 7")
        assert cluster.wait_for(after, "TERMINATED", "ERROR")["exit_code"] == 7
    assert_nothing_is_left(cluster, engine, pulled, after)
