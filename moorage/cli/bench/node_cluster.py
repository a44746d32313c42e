"""The node of a whole cluster: its agent as a process of its own, with real containers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import docker
import psutil

from moorage.cli import show
from moorage.cli.bench.node_left import labels_of, remove_labelled
from moorage.cli.bench.own_cluster import OwnCluster, percentile
from moorage.cli.client import Client
from moorage.contracts import names
from moorage.domain.errors import MoorageError

_AGENT = "node1"
_SETTLE_S = 15.0
_WITHIN_S = 120.0
_OVER = ("TERMINATED", "ERROR", "CANCELLED")


@contextmanager
def swept() -> Iterator[list[str]]:
    """Clusters whose containers are removed at the end: they outlive their agents."""
    clusters: list[str] = []
    try:
        yield clusters
    finally:
        for cluster in clusters:
            remove_labelled(*labels_of(cluster, _AGENT))


def exits(cluster: OwnCluster, n: int, image: str) -> dict[str, float]:
    """From the end of a container, as Docker tells it, to its session's last row."""
    client, engine = Client(cluster.profile), docker.APIClient(version="auto")
    took = []
    for count in range(-1, n):
        began = time.time()
        session_id = _begun(client, image, ["sleep", "0.5"])
        session = _wait(client, session_id, *_OVER)
        if session["status"] != "TERMINATED":
            raise MoorageError(f"session {session_id} is {session['status']}: {session['status_info']}")
        if count >= 0:
            at = datetime.fromisoformat(str(session["terminated_at"])).timestamp()
            took.append((at - _died(engine, session_id, began)) * 1000)
    engine.close()
    return {"n": n, "p50_ms": percentile(took, 50), "p95_ms": percentile(took, 95)}


def idle(cluster: OwnCluster, containers: int, seconds: int, image: str) -> dict[str, float]:
    """What the agent's process costs when nothing happens to so many sessions."""
    client, agent = Client(cluster.profile), psutil.Process(cluster.pids[_AGENT])
    empty = _cost(agent, seconds)
    ids = [_begun(client, image, ["tail", "-f", "/dev/null"], cpu="0.01") for _ in range(containers)]
    for session_id in ids:
        _wait(client, session_id, "RUNNING", *_OVER)
    running = sum(client.session(one)["status"] == "RUNNING" for one in ids)
    if running != containers:
        raise MoorageError(f"{containers - running} of {containers} sessions don't run")
    settle_s = min(_SETTLE_S, seconds)
    show.note(f"{running} containers run; the agent is left alone for {settle_s:.0f} s, then watched for {seconds} s")
    time.sleep(settle_s)
    full = _cost(agent, seconds)
    return {"containers": running, **full, "empty_core_percent": empty["core_percent"], "empty_mb": empty["mb"]}


def _cost(agent: psutil.Process, seconds: int) -> dict[str, float]:
    before = agent.cpu_times()
    time.sleep(seconds)
    after = agent.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return {"core_percent": round(100 * spent / seconds, 2), "mb": round(agent.memory_info().rss / 1e6, 1)}


def _begun(client: Client, image: str, command: list[str], cpu: str = "0.5") -> str:
    resources = {"cpu": cpu, "mem": "16m"}
    return str(client.submit({"image": image, "type": "batch", "command": command, "resources": resources})["id"])


def _wait(client: Client, session_id: str, *statuses: str) -> dict[str, Any]:
    deadline = time.monotonic() + _WITHIN_S
    session = client.session(session_id)
    while session["status"] not in statuses:
        if time.monotonic() > deadline:
            raise MoorageError(f"session {session_id} is {session['status']} after {_WITHIN_S:.0f} s")
        session = client.session_after(session_id, session["status"])
    return session


def _died(engine: Any, session_id: str, since: float) -> float:
    """When Docker told the end of the session's container, in seconds since 1970."""
    filters = {"event": ["die"], "label": [f"{names.LABEL_SESSION}={session_id}"]}
    events = engine.events(since=int(since), until=int(time.time()) + 1, decode=True, filters=filters)
    return max(int(event["timeNano"]) for event in events) / 1e9
