"""Idle sessions on a whole Moorage: warned, kept by an extension, stopped with numbers; others go on.

Buys: the idle policy works from the wish over label, meter, watch, signal and update to the row on real parts, with a
kill of the agent in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]
SOON: dict[str, Any] = {"after_s": 2, "cpu_percent": 5, "grace_s": 1}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, runtime="simulated")
    yield cluster
    cluster.close()


def submitted(cluster: Cluster, cpu: str, **idle: Any) -> str:
    wish: dict[str, Any] = {"type": "interactive", "env": {"MOORAGE_SIM_CPU": cpu}, "resources": {"cpu": "500m"}}
    return cluster.submit(idle={**SOON, **idle}, **wish)


def told(cluster: Cluster, session_id: str, reason: str = "idle-warning") -> list[str]:
    events = cluster.request("GET", f"/session/{session_id}/events")["items"]
    return [str(event["message"]) for event in events if event["reason"] == reason]


def test_an_idle_session_is_warned_kept_by_an_extension_and_stopped_with_numbers(cluster: Cluster) -> None:
    idle, busy = submitted(cluster, "0.01", grace_s=4), submitted(cluster, "0.5")
    reported = submitted(cluster, "0.01", dry_run=True)
    for session_id in (idle, busy, reported):
        cluster.wait_for(session_id, "RUNNING")

    cluster.until(lambda: told(cluster, idle), "it is warned", within_s=30)
    extended = cluster.request("POST", f"/session/{idle}/extend", json={"for": "14s"})
    assert extended["http_status"] == 200, extended
    kept_until = datetime.fromisoformat(extended["kept_until"])
    [warning] = told(cluster, idle)
    name = extended["name"]
    assert "CPU 1.0 % of 0.5 cores (below 5 %)" in warning
    assert warning.endswith(f"`moor extend {name} 2h` keeps it")
    file = cluster.request("POST", f"/session/{idle}/exec", json={"command": ["cat", "/run/moorage/idle-warning"]})
    assert file["stdout"] == f"{warning}\n"
    table = cluster.moor("idle").stdout
    assert name in table
    assert "CPU 1.0 % of 0.5 cores" in table

    cluster.kill("node1")  # the next process of the agent counts anew, by what the container carries
    over = cluster.wait_for(idle, "TERMINATED", within_s=60)
    assert (over["reason"], over["result"]) == ("idle-timeout", "UNDEFINED")
    assert datetime.fromisoformat(over["terminated_at"]) >= kept_until, "the extension kept it"
    assert "CPU 1.0 % of 0.5 cores (below 5 %) for" in over["status_info"]
    assert told(cluster, idle, "extended")

    cluster.until(lambda: any("dry run" in line for line in told(cluster, reported)), "it is reported", within_s=60)
    for session_id in (busy, reported):
        assert cluster.request("GET", f"/session/{session_id}")["status"] == "RUNNING"
    assert told(cluster, busy) == []
    assert "is not stopped for idleness before" in cluster.moor("extend", busy, "2h").stdout
    refused = cluster.moor("extend", idle, "2h")
    assert (refused.returncode, "is TERMINATED; extend needs RUNNING" in refused.stderr) == (1, True)
    assert "warned when idle for 2 s (CPU < 5 %" in cluster.moor("show", busy).stdout
    assert cluster.violations() == "all invariants hold"
