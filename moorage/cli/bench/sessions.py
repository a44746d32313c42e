"""What Moorage adds to Docker, on what `moor up` runs."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Annotated, Any

import docker
import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.contracts import names

_Rounds = Annotated[int, typer.Option(min=1, max=500, help="Rounds; each does both sides once.")]
_Image = Annotated[str, typer.Option(help="A small image that is on the node.")]
_IDLE = ["tail", "-f", "/dev/null"]


def start(n: _Rounds = 20, image: _Image = "moorage-test-busybox:1") -> None:
    """POST to RUNNING, against create + start of the same container by the Docker SDK."""
    ours, floor, steps = [], [], []
    for _ in _rounds(n):
        began = time.perf_counter()
        session_id = _running(image)
        ours.append(_ms_since(began))
        steps.append(_durations(session_id))
        _settle()
        began, container_id = time.perf_counter(), _same_container(session_id)
        _docker().start(container_id)
        floor.append(_ms_since(began))
        _docker().remove_container(container_id, force=True)
        _gone(session_id)
        _settle()
    show.note("where the time goes (p50): " + ", ".join(f"{name} {_p50(steps, name):.0f} ms" for name in steps[0]))
    _print(ours, floor)


def stop(n: _Rounds = 20, image: _Image = "moorage-test-busybox:1") -> None:
    """DELETE to proven gone without grace, against kill + remove of the same container by the Docker SDK."""
    ours, floor = [], []
    for _ in _rounds(n):
        session_id = _running(image)
        container_id = _same_container(session_id)
        _docker().start(container_id)
        _settle()
        began = time.perf_counter()
        _docker().kill(container_id)
        _docker().wait(container_id)
        _docker().remove_container(container_id, v=True)
        floor.append(_ms_since(began))
        _settle()
        began = time.perf_counter()
        _gone(session_id)
        ours.append(_ms_since(began))
    _print(ours, floor)


def _settle() -> None:
    """Neither side pays for what the other left to do: an idle node removes and makes network namespaces."""
    time.sleep(0.8)


def _running(image: str) -> str:
    wish = {"image": image, "type": "batch", "command": _IDLE, "resources": {"cpu": "0.5", "mem": "64m"}}
    session = _client().submit(wish)
    session_id = str(session["id"])
    while session["status"] != "RUNNING":
        if session["status"] in ("TERMINATED", "ERROR", "CANCELLED"):
            raise SystemExit(f"session {session_id} is {session['status']}: {session['status_info']}")
        session = _client().session_after(session_id, session["status"])
    return session_id


def _gone(session_id: str) -> None:
    session = _client().stop(session_id, forced=True)
    while session["status"] not in ("TERMINATED", "ERROR"):
        session = _client().session_after(session_id, session["status"])


def _same_container(session_id: str) -> str:
    """Made anew from what Docker says of the session's container: same limits, same hardening. Not started.

    Its network is Docker's bridge, as with `docker run`; the node may have made the session's network ahead.
    """
    [found] = _docker().containers(filters={"label": f"{names.LABEL_SESSION}={session_id}"})
    seen: dict[str, Any] = _docker().inspect_container(found["Id"])
    host = {**seen["HostConfig"], "NetworkMode": "bridge"}
    config = {**seen["Config"], "HostConfig": host, "Labels": {}, "Hostname": "floor"}
    return str(_docker().create_container_from_config(config, name=f"moorage-floor-{uuid.uuid4().hex[:8]}")["Id"])


def _durations(session_id: str) -> dict[str, float]:
    """How long each step took, in ms, by the timeline."""
    events = _client().events(session_id)
    return {
        f"{before['to_status']}→{after['to_status']}": (_moment(after) - _moment(before)) * 1000
        for before, after in pairwise(events)
    }


def _moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def _rounds(n: int) -> range:
    """One round first that isn't counted: it fills caches on both sides."""
    _gone(_running("moorage-test-busybox:1"))
    return range(n)


def _print(ours: list[float], floor: list[float]) -> None:
    result = {
        "n": len(ours),
        "p50_ms": _percentile(ours, 50),
        "p95_ms": _percentile(ours, 95),
        "floor_p50_ms": _percentile(floor, 50),
        "floor_p95_ms": _percentile(floor, 95),
        "ratio": round(statistics.median(ours) / statistics.median(floor), 3),
        "overhead_p50_ms": round(statistics.median(a - b for a, b in zip(ours, floor, strict=True)), 1),
    }
    print(json.dumps(result))


def _percentile(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)


def _p50(steps: list[dict[str, float]], name: str) -> float:
    return statistics.median(step.get(name, 0.0) for step in steps)


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


@cache
def _client() -> Client:
    """Made at the first use, so that `moor --help` needs no profile."""
    return Client()


@cache
def _docker() -> Any:
    return docker.APIClient(version="auto")
