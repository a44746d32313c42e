"""Three simulated nodes under a real scheduler, seen through the API.

Buys: policies, gangs, devices, preemption, drain, dependencies and decisions work together on real parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]
FOREVER = ("sleep", "infinity")
DEFAULTS: dict[str, Any] = {"policy": "priority", "selector": "concentrated"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Iterator[Cluster]:
    environment = {
        "MOORAGE_AGENT_CPU": "4",
        "MOORAGE_AGENT_SIMULATED_DEVICES": "cuda.device=2,cuda.shares=1",
        "PYTHONPATH": str(plugin),
    }
    folder = Path(tmp_path_factory.mktemp("cluster"))
    cluster = Cluster(folder, runtime="simulated", agents=3, environment=environment)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(whole: Cluster) -> Iterator[Cluster]:
    """The cluster with nothing on it and its group as it was made; afterwards nothing is left and all holds."""
    yield whole
    options: dict[str, Any] = {"head": None, "preemption": None, "preemption_min_run_s": None}
    steer(whole, **DEFAULTS, options=options)
    for session in whole.request("GET", "/session", params={"limit": "100"})["items"]:
        whole.request("DELETE", f"/session/{session['id']}", params={"forced": "true"})
        whole.wait_for(session["id"], "TERMINATED", "CANCELLED", "ERROR")
    for node in whole.request("GET", "/agent")["items"]:
        whole.request("PATCH", f"/agent/{node['id']}", json={"schedulable": True})
    assert whole.request("GET", "/resource")["slots"]["cpu"]["used"] == 0
    assert whole.violations() == "all invariants hold"


def steer(cluster: Cluster, **change: Any) -> None:
    answer = cluster.request("PATCH", "/resource-group/default", json=change)
    assert answer["http_status"] == 200, answer


def fill(cluster: Cluster, *, leave: int = 0) -> list[str]:
    """A session of four cores on each node but for so many; running."""
    blockers = [cluster.submit(*FOREVER, resources={"cpu": "4"}) for _ in range(3 - leave)]
    for blocker in blockers:
        cluster.wait_for(blocker, "RUNNING")
    return blockers


def stop(cluster: Cluster, session_id: str) -> None:
    assert cluster.request("DELETE", f"/session/{session_id}", params={"forced": "true"})["http_status"] == 202


@pytest.mark.parametrize(
    ("policy", "first"),
    [("fifo", "early"), ("lifo", "late"), ("priority", "early"), ("drf", "early"), ("fair-share", "early"),
     ("shortest-first", "late")],
)  # fmt: skip
def test_a_policy_is_live_as_soon_as_it_is_set(policy: str, first: str, cluster: Cluster) -> None:
    blockers = fill(cluster)
    waiting = {
        "early": cluster.submit(*FOREVER, resources={"cpu": "4"}, lifetime_s=900),
        "late": cluster.submit(*FOREVER, resources={"cpu": "4"}, lifetime_s=600),
    }
    steer(cluster, policy=policy)
    line = cluster.request("GET", "/resource-group/default/queue")
    assert line["policy"] == policy
    assert line["items"][0]["position"] == 1
    stop(cluster, blockers[0])
    cluster.wait_for(waiting.pop(first), "RUNNING")
    [other] = waiting.values()
    assert cluster.request("GET", f"/session/{other}")["status"] == "PENDING"


def test_a_selector_of_a_plug_in_takes_the_node(cluster: Cluster) -> None:
    steer(cluster, selector="most-memory")
    nodes = {cluster.wait_for(cluster.submit(*FOREVER), "RUNNING")["agent"] for _ in range(3)}
    assert len(nodes) == 3


def test_a_gang_starts_whole_on_its_nodes_and_ends_whole(cluster: Cluster) -> None:
    wish: dict[str, Any] = {"resources": {"cpu": "3"}, "cluster_size": 3, "cluster_mode": "multi-node"}
    blocker = cluster.submit(*FOREVER, resources={"cpu": "4"})
    cluster.wait_for(blocker, "RUNNING")
    gang = cluster.submit("sleep", "1", **wish)
    why = cluster.request("GET", f"/session/{gang}/why")
    assert why["position"] == 1
    assert "3 kernels" in " ".join(one["message"] for one in why["obstacles"])
    assert cluster.request("GET", "/resource")["slots"]["cpu"]["used"] == 4000, "no part of it holds anything"
    stop(cluster, blocker)
    cluster.wait_for(gang, "RUNNING", "TERMINATED")
    kernels = cluster.request("GET", f"/session/{gang}")["kernels"]
    assert [(one["role"], one["idx"]) for one in kernels] == [("main", 1), ("sub", 1), ("sub", 2)]
    assert len({one["agent"] for one in kernels}) == 3
    end = cluster.wait_for(gang, "TERMINATED", "ERROR")
    assert (end["status"], end["exit_code"]) == ("TERMINATED", 0)


def test_devices_are_given_once(cluster: Cluster) -> None:
    whole = [cluster.submit(*FOREVER, resources={"cpu": "1", "cuda.device": "2"}) for _ in range(3)]
    for session_id in whole:
        cluster.wait_for(session_id, "RUNNING")
    parts = [cluster.submit(*FOREVER, resources={"cpu": "0.5", "cuda.shares": "0.6"}) for _ in range(3)]
    for session_id in parts:
        cluster.wait_for(session_id, "RUNNING")
    refused = cluster.submit(*FOREVER, resources={"cpu": "0.5", "cuda.shares": "0.5"})
    why = cluster.request("GET", f"/session/{refused}/why")
    assert any(one["cause"] == "slot:cuda.shares" for one in why["obstacles"])
    assert cluster.request("GET", "/resource")["slots"]["cuda.device"]["used"] == 6
    used = [d["used"] for node in cluster.request("GET", "/agent")["items"] for d in node["devices"]]
    assert sorted(used) == [1, 1, 1, 1, 1, 1, 60, 60, 60]


@pytest.mark.parametrize("mode", ["requeue", "terminate"])
def test_others_make_way_for_a_higher_job_priority(mode: str, cluster: Cluster) -> None:
    steer(cluster, options={"preemption": mode, "preemption_min_run_s": 0})
    blockers = fill(cluster)
    urgent = cluster.submit("sleep", "1", resources={"cpu": "4"}, job_priority=5)
    assert cluster.wait_for(urgent, "RUNNING", "TERMINATED")["attempt"] == 0
    cluster.wait_for(urgent, "TERMINATED")
    lives = [cluster.request("GET", f"/session/{one}/events")["items"] for one in blockers]
    [victim] = [life for life in lives if any(event["reason"] == "preempted" for event in life)]
    steps = [event["to_status"] for event in victim]
    if mode == "requeue":
        assert steps[:6] == ["PENDING", "SCHEDULED", "CREATING", "RUNNING", "TERMINATING", "PENDING"]
        again = blockers[lives.index(victim)]
        assert cluster.wait_for(again, "RUNNING")["attempt"] == 1
    else:
        assert steps[-2:] == ["TERMINATING", "TERMINATED"]


def test_a_drained_node_loses_what_may_move_and_waits_for_the_rest(cluster: Cluster) -> None:
    stays = cluster.submit(*FOREVER)
    node = str(cluster.wait_for(stays, "RUNNING")["agent"])
    moves = cluster.submit(*FOREVER, on_node_loss="requeue")
    assert cluster.wait_for(moves, "RUNNING")["agent"] == node
    assert cluster.request("POST", f"/agent/{node}/drain")["http_status"] in (200, 202)
    cluster.until(lambda: cluster.request("GET", f"/session/{moves}")["attempt"] == 1, "it moves")
    assert cluster.wait_for(moves, "RUNNING")["agent"] != node
    assert cluster.wait_for(cluster.submit(*FOREVER), "RUNNING")["agent"] != node
    assert cluster.request("GET", f"/session/{stays}")["status"] == "RUNNING"


def test_a_session_follows_those_it_depends_on(cluster: Cluster) -> None:
    good = cluster.submit("sleep", "1")
    after = cluster.submit("exit", "0", dependencies=[good])
    bad = cluster.submit("exit", "3", not_before="2s")
    never = cluster.submit("exit", "0", dependencies=[bad])
    anyway = cluster.submit("exit", "0", dependencies=[bad], on_dependency_failure="run")
    assert cluster.wait_for(after, "TERMINATED")["exit_code"] == 0
    ends = [cluster.request("GET", f"/session/{one}") for one in (good, after)]
    assert ends[0]["terminated_at"] <= ends[1]["started_at"]
    end = cluster.wait_for(never, "CANCELLED", "TERMINATED", "ERROR")
    assert (end["status"], end["reason"]) == ("CANCELLED", "dependency-failed")
    assert cluster.wait_for(anyway, "TERMINATED")["exit_code"] == 0


def test_a_limit_holds_back_and_lets_go(cluster: Cluster) -> None:
    who = "admin@localhost"
    assert cluster.request("PUT", f"/limit/user/{who}", json={"max_sessions": 1})["http_status"] == 200
    first = cluster.submit(*FOREVER)
    cluster.wait_for(first, "RUNNING")
    second = cluster.submit(*FOREVER)
    cluster.until(lambda: "1 of 1" in str(cluster.request("GET", f"/session/{second}")["status_info"]), "it says so")
    assert cluster.request("DELETE", f"/limit/user/{who}")["http_status"] in (200, 204)
    cluster.wait_for(second, "RUNNING")


def test_a_large_session_starts_under_a_stream_of_small_ones(cluster: Cluster) -> None:
    small = [cluster.submit("sleep", "1", resources={"cpu": "2"}, lifetime_s=3) for _ in range(6)]
    large = cluster.submit("sleep", "1", resources={"cpu": "4"}, lifetime_s=5)
    small += [cluster.submit("sleep", "1", resources={"cpu": "2"}, lifetime_s=3) for _ in range(12)]
    started = cluster.wait_for(large, "RUNNING", "TERMINATED")["started_at"]
    last = [cluster.wait_for(one, "TERMINATED")["started_at"] for one in small][-1]
    assert started < last


def test_a_plan_says_where_or_when_and_submits_nothing(cluster: Cluster) -> None:
    wish = {"image": "img", "type": "batch", "command": ["true"], "resources": {"cpu": "4"}}
    now = cluster.request("POST", "/plan", json=wish)
    assert now["starts"]
    assert set(now["kernels"]) == {"main1"}
    for blocker in fill(cluster):
        assert cluster.request("GET", f"/session/{blocker}")["status"] == "RUNNING"
    before = cluster.request("GET", "/session", params={"all": "true"})["total"]
    later = cluster.request("POST", "/plan", json=wish)
    assert not later["starts"]
    assert later["change"] == "4 more of cpu on node node1"
    assert cluster.request("GET", "/session", params={"all": "true"})["total"] == before


def test_recorded_passes_come_out_the_same_and_changes_can_be_tried(cluster: Cluster) -> None:
    fill(cluster)
    waiting = cluster.submit("sleep", "1", resources={"cpu": "4"}, lifetime_s=60)
    cluster.until(lambda: cluster.request("GET", f"/session/{waiting}")["status_info"], "a pass has refused it")
    again = cluster.request("GET", "/resource-group/default/replay")
    assert again["passes"] > 0
    assert again["same"] == again["passes"]
    change = {"remove_nodes": ["node3"], "policy": "lifo", "jobs": [{"count": 2, "resources": {"cpu": 4}, "run_s": 60}]}
    what_if = cluster.request("POST", "/resource-group/default/simulate", json=change)
    assert what_if["http_status"] == 200, what_if
    assert len(what_if["sessions"]) == 3
    assert what_if["then"]["started"] >= 0
