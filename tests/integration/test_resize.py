"""Resizes, restarts and commits through all parts: what the ledger says, what the kernel limits, what people are told.

Buys: a running session's limits really change without its end, and whatever interrupts that leaves both sides equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]
MIB = 1024**2
FOREVER = ("sleep", "infinity")
HOARD = ("sh", "-c", "x=$(yes | head -c 12000000); echo full; while true; do sleep 1; done")
IMAGE = "committed.local/resize-test:1"


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    client = docker.APIClient(version="auto")
    yield client
    try:
        client.remove_image(IMAGE, force=True)
    except APIError:
        pass
    client.close()


def container(engine: docker.APIClient, session_id: str) -> dict[str, Any]:
    [found] = engine.containers(filters={"label": f"moorage.session={session_id}"})
    return dict(engine.inspect_container(found["Id"]))


def limits(engine: docker.APIClient, session_id: str) -> dict[str, int]:
    """As the kernel has them for the container's first process."""
    pid = container(engine, session_id)["State"]["Pid"]
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for name, file in (("cpu", "cpu.max"), ("mem", "memory.max")):
                v2 = Path(f"/sys/fs/cgroup{path}/{file}")
                if v2.exists():
                    found[name] = int(v2.read_text().split()[0]) // (100 if name == "cpu" else 1)
        for controller in controllers.split(","):
            if controller == "cpu":
                found["cpu"] = int(Path(f"/sys/fs/cgroup/{controllers}{path}/cpu.cfs_quota_us").read_text()) // 100
            if controller == "memory":
                found["mem"] = int(Path(f"/sys/fs/cgroup/memory{path}/memory.limit_in_bytes").read_text())
    return found


def resize(cluster: Cluster, session_id: str, *, move: bool = False, **resources: str) -> dict[str, Any]:
    body = {"resources": {name.replace("_", "."): amount for name, amount in resources.items()}, "move": move}
    return cluster.request("POST", f"/session/{session_id}/resize", json=body, timeout=60)


@pytest.mark.docker
def test_a_session_grows_shrinks_and_starts_anew_in_its_place(tmp_path: Path, engine: docker.APIClient) -> None:
    cluster = Cluster(tmp_path, runtime="docker", environment={"MOORAGE_AGENT_CPU": "4", "MOORAGE_AGENT_MEM": "2g"})
    try:
        _grow_and_shrink(cluster, engine)
        _a_refusal_changes_nothing(cluster, engine)
        _killed_in_the_middle(cluster, engine)
        assert cluster.violations() == "all invariants hold"
    finally:
        cluster.close()


def _grow_and_shrink(cluster: Cluster, engine: docker.APIClient) -> None:
    session_id = cluster.submit(*FOREVER, name="mine", resources={"cpu": "0.5", "mem": "64m"}, env={"TOKEN": "hunter2"})
    cluster.wait_for(session_id, "RUNNING")
    first = container(engine, session_id)["State"]["Pid"]
    for cpu, mem in ((1500, 128), (250, 32)):
        shown = resize(cluster, session_id, cpu=f"{cpu}m", mem=f"{mem}m")
        assert (shown["http_status"], shown["status"], shown["restarted"]) == (200, "RUNNING", False), shown
        assert shown["slots"] == limits(engine, session_id) == {"cpu": cpu, "mem": mem * MIB}
    assert container(engine, session_id)["State"]["Pid"] == first

    before = container(engine, session_id)["Id"]
    again = cluster.moor("restart", "mine")
    assert again.stdout == "mine runs with cpu 0.25, mem 32 MiB on node1, attempt 1\n", again.stderr
    assert container(engine, session_id)["Id"] != before
    assert limits(engine, session_id) == {"cpu": 250, "mem": 32 * MIB}, "the new one has what the session has"
    assert "restarting" in again.stderr

    made = cluster.moor("commit", "mine", "resize-test:1")
    assert made.stdout == f"{IMAGE}\n", made.stderr
    assert "on node node1, 2 MB" in made.stderr
    assert "hunter2" not in str(engine.inspect_image(IMAGE))
    of_it = cluster.submit("true", image=IMAGE)
    assert cluster.wait_for(of_it, "TERMINATED")["result"] == "SUCCESS"
    steps = [status for status in cluster.steps(session_id) if status != "CREATING"]
    assert steps == ["PENDING", "SCHEDULED", *2 * ["RUNNING", "RESIZING"], "RUNNING", "RESTARTING", "RUNNING"]


def _a_refusal_changes_nothing(cluster: Cluster, engine: docker.APIClient) -> None:
    session_id = cluster.submit(*HOARD, name="hoard", resources={"cpu": "1", "mem": "64m"})
    cluster.wait_for(session_id, "RUNNING")
    cluster.until(lambda: "full" in cluster.moor("logs", "hoard").stdout, "it holds memory")
    refused = cluster.moor("resize", "hoard", "--mem", "8m", "--cpu", "2")
    assert refused.returncode == 1
    assert "of memory, asked was 8 MiB" in refused.stderr
    assert limits(engine, session_id) == {"cpu": 1000, "mem": 64 * MIB}
    events = cluster.request("GET", f"/session/{session_id}/events")["items"]
    assert [event["reason"] for event in events[-2:]] == ["", "resize-refused"]

    other = cluster.submit(*FOREVER, resources={"cpu": "1", "mem": "64m"})
    cluster.wait_for(other, "RUNNING")
    for words, cpu in (("possible there is cpu 2.75", "3"), ("the largest node has cpu 4", "9")):
        refused = cluster.moor("resize", "hoard", "--cpu", cpu)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr
    email = cluster.request("GET", "/whoami")["email"]
    cluster.request("PUT", f"/limit/user/{email}", json={"max_slots": {"cpu": "3"}})
    beyond = resize(cluster, session_id, cpu="2")
    assert (beyond["http_status"], beyond["code"]) == (409, "quota-exceeded")
    assert resize(cluster, session_id, cpu="1500m")["slots"]["cpu"] == 1500
    cluster.request("DELETE", f"/limit/user/{email}")


def _killed_in_the_middle(cluster: Cluster, engine: docker.APIClient) -> None:
    """At the moment at which Docker has changed the limits and nobody knows."""
    session_id = cluster.submit(*FOREVER, resources={"cpu": "0.25", "mem": "32m"})
    cluster.wait_for(session_id, "RUNNING")
    name = container(engine, session_id)["Id"]
    with ThreadPoolExecutor(1) as beside:
        answer = beside.submit(resize, cluster, session_id, mem="48m")
        while engine.inspect_container(name)["HostConfig"]["Memory"] == 32 * MIB:
            pass
        cluster.kill("node1")
        answered = answer.result(60)
    assert answered["http_status"] in (200, 202), answered
    cluster.wait_for(session_id, "RUNNING")
    cluster.until(
        lambda: cluster.request("GET", f"/session/{session_id}")["slots"] == limits(engine, session_id),
        "the ledger says what the kernel does",
    )
    assert limits(engine, session_id)["mem"] == 48 * MIB


def test_accelerators_change_by_a_restart_and_a_full_node_is_left_if_asked(tmp_path: Path) -> None:
    environment = {"MOORAGE_AGENT_CPU": "4", "MOORAGE_AGENT_SIMULATED_DEVICES": "cuda.device=3:model=H100"}
    cluster = Cluster(tmp_path, runtime="simulated", agents=2, environment=environment)
    try:
        cluster.until(lambda: len(cluster.request("GET", "/agent")["items"]) == 2, "both nodes are there")
        mine = cluster.submit(*FOREVER, name="mine", resources={"cpu": "1", "cuda.device": "1"})
        node = cluster.wait_for(mine, "RUNNING")["agent"]
        told = cluster.moor("resize", "mine", "--gpu", "3")
        assert told.stdout == f"mine runs with cpu 1, mem 256 MiB, cuda.device 3 on {node}, attempt 1\n", told.stderr
        assert "cuda.device 1 → 3" in told.stderr
        assert _used(cluster) == {node: 3}
        cluster.moor("resize", "mine", "--gpu", "1")
        assert _used(cluster) == {node: 1}

        beside = cluster.submit(*FOREVER, resources={"cpu": "2", "cuda.device": "1"}, agents=[node])
        cluster.wait_for(beside, "RUNNING")
        refused = resize(cluster, mine, cpu="3", cuda_device="3")
        assert (refused["code"], refused["data"]["possible"]) == ("no-room-on-node", {"cpu": 2000, "cuda.device": 2})
        moved = cluster.moor("resize", "mine", "--cpu", "3", "--gpu", "3", "--move")
        assert moved.returncode == 0, moved.stderr
        session = cluster.request("GET", f"/session/{mine}")
        assert (session["agent"] != node, session["slots"]["cpu"], session["attempt"]) == (True, 3000, 3)
        assert _used(cluster) == {node: 1, session["agent"]: 3}
        assert cluster.violations() == "all invariants hold"
    finally:
        cluster.close()


def _used(cluster: Cluster) -> dict[str, int]:
    """Devices in use, by node."""
    nodes = cluster.request("GET", "/agent")["items"]
    used = {node["id"]: sum(one["used"] for one in node["devices"]) for node in nodes}
    return {node: number for node, number in used.items() if number}
