"""What the administrator's verbs and the options of `moor run` ask of the API, and how they show its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.support.command import Moor, moor_for, served

GIB = 1024**3
GROUP: dict[str, Any] = {
    "name": "gpu", "description": "", "policy": "drf", "selector": "dispersed",
    "agents": 1, "sessions": 2, "pending": 1,
    "allowed_domains": ["default"], "allowed_projects": [], "allowed_keypairs": [],
    "options": {"head": "easy", "preemption": "off", "session_types": ["batch", "interactive"]},
}  # fmt: skip
LIMIT: dict[str, Any] = {
    "scope": "user", "name": "ada@example.org", "max_sessions": 5, "max_slots": {"cpu": 1500, "cuda.shares": 50},
    "max_pending": None, "max_pending_slots": {"mem": GIB}, "weight": 2.0,
    "max_containers": 4, "max_priority": None, "max_job_priority": None, "max_lifetime_s": 7200.0,
    "idle_timeout_s": None, "allowed_folder_hosts": None,
}  # fmt: skip
AGENT: dict[str, Any] = {
    "id": "node1", "status": "ALIVE", "schedulable": False, "resource_group": "gpu", "runtime": "docker",
    "architecture": "x86_64", "sessions": 2, "last_seen": None, "slots": {"cpu": {"capacity": 4000, "used": 1000}},
    "devices": [
        {"id": "gpu0", "slot": "cuda.shares", "total": 100, "used": 50, "healthy": True, "reason": "",
         "model": "H100", "memory": 80 * GIB, "numa": 0},
        {"id": "gpu1", "slot": "cuda.shares", "total": 100, "used": 0, "healthy": False, "reason": "XID 79",
         "model": "H100", "memory": 0, "numa": None},
    ],
}  # fmt: skip
SESSION: dict[str, Any] = {"name": "train-1", "id": "5b1e"}


class Heard:
    """Requests but the reading ones, as (method, path, body)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []

    @property
    def last(self) -> tuple[str, str, Any]:
        return self.asked[-1]

    def app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
        async def answer(path: str, request: Request) -> Response:
            if request.method != "GET":
                self.asked.append((request.method, f"/{path}", await request.json() if await request.body() else None))
            if request.method == "DELETE":
                return Response(status_code=204)
            noun = path.split("/")[0]
            item = {"resource-group": GROUP, "limit": LIMIT, "agent": AGENT, "session": SESSION}[noun]
            return JSONResponse({"items": [item]} if (request.method, path) == ("GET", noun) else item)

        return app


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def moor(heard: Heard, tmp_path: Path) -> Iterator[Moor]:
    with served(heard.app()) as endpoint:
        yield moor_for(endpoint, tmp_path)


def done(outcome: Any) -> str:
    assert outcome.returncode == 0, outcome.stderr
    return str(outcome.stdout)


def test_a_bare_noun_lists(moor: Moor) -> None:
    assert "drf" in done(moor("groups"))
    assert "cpu 1.5, cuda.shares 0.5" in done(moor("limits"))
    listed = done(moor("agents"))
    assert "ALIVE, cordoned" in listed
    assert "gpu0 0.5, gpu1 unhealthy" in listed
    assert '"items"' in done(moor("agents", "--json"))


def test_a_node_is_shown_with_its_devices(moor: Moor) -> None:
    lines = [" ".join(line.split()) for line in done(moor("agents", "show", "node1")).splitlines()]
    assert "gpu0 cuda.shares H100 80 GiB 0 0.5 of 1 healthy" in lines
    assert "gpu1 cuda.shares H100 0 of 1 unhealthy: XID 79" in lines
    assert '"memory"' in done(moor("agents", "show", "node1", "--json"))
    unknown = moor("agents", "show", "node9")
    assert (unknown.returncode, "there is no agent 'node9'" in unknown.stderr) == (1, True)


def test_a_group_is_shown_with_its_options(moor: Moor) -> None:
    lines = {tuple(line.split(maxsplit=2)[:2]): line for line in done(moor("groups", "show", "gpu")).splitlines()}
    assert lines["option", "session_types"].endswith("batch, interactive")


def test_a_group_is_made_with_what_was_said_alone(moor: Moor, heard: Heard) -> None:
    done(moor("groups", "create", "gpu", "--policy", "drf", "--allow-project", "a/b", "--allow-project", "a/c"))
    assert heard.last == (
        "POST", "/resource-group", {"name": "gpu", "policy": "drf", "allowed_projects": ["a/b", "a/c"]},
    )  # fmt: skip


def test_options_are_pairs_lists_or_the_default_again(moor: Moor, heard: Heard) -> None:
    done(
        moor("groups", "set", "gpu", "--option", "skip_limit=5", "--option", "session_types=batch, interactive",
             "--option", "head=", "--allow-everybody", "--allow-domain", "d")
    )  # fmt: skip
    method, path, body = heard.last
    assert (method, path) == ("PATCH", "/resource-group/gpu")
    assert body["options"] == {"skip_limit": "5", "session_types": ["batch", "interactive"], "head": None}
    assert (body["allowed_domains"], body["allowed_projects"]) == (["d"], [])


def test_what_is_no_pair_is_refused(moor: Moor, heard: Heard) -> None:
    for arguments in (
        ["groups", "set", "gpu", "--option", "head"],
        ["limits", "set", "user", "a", "--max", "cpu"],
        ["run", "img", "--slot", "=1"],
    ):
        outcome = moor(*arguments)
        assert outcome.returncode == 1
        assert "is not KEY=VALUE" in outcome.stderr
    assert heard.asked == []


def test_a_limit_that_is_not_named_stays(moor: Moor, heard: Heard) -> None:
    done(moor("limits", "set", "user", "ada@example.org", "--max", "mem=32g", "--max-pending", "100"))
    assert heard.last == (
        "PUT",
        "/limit/user/ada@example.org",
        {
            "max_sessions": 5,
            "max_slots": {"cpu": "1500m", "cuda.shares": "0.5", "mem": "32g"},
            "max_pending": 100,
            "max_pending_slots": {"mem": str(GIB)},
            "weight": 2.0,
            "max_containers": 4,
            "max_priority": None,
            "max_job_priority": None,
            "max_lifetime_s": 7200.0,
            "idle_timeout_s": None,
            "allowed_folder_hosts": None,
        },
    )


def test_none_lifts_a_limit(moor: Moor, heard: Heard) -> None:
    done(moor("limits", "set", "user", "ada@example.org", "--max", "cpu=none", "--max-sessions", "none"))
    body = heard.last[2]
    assert (body["max_sessions"], body["max_slots"]) == (None, {"cuda.shares": "0.5"})
    assert moor("limits", "set", "user", "a", "--max-sessions", "-3").returncode != 0
    assert moor("limits", "set", "team", "a").returncode != 0


def test_a_project_keeps_its_slash(moor: Moor, heard: Heard) -> None:
    done(moor("limits", "set", "project", "default/default", "--weight", "3"))
    assert heard.last[1:] == (
        "/limit/project/default/default",
        {"weight": 3.0},
    )
    done(moor("limits", "rm", "project", "default/default"))
    assert heard.last == ("DELETE", "/limit/project/default/default", None)


def test_nodes_are_cordoned_uncordoned_and_drained(moor: Moor, heard: Heard) -> None:
    assert done(moor("agents", "cordon", "node1")) == "node1 ALIVE, cordoned, sessions: 2\n"
    done(moor("agents", "uncordon", "node1"))
    done(moor("agents", "drain", "node1"))
    assert heard.asked == [
        ("PATCH", "/agent/node1", {"schedulable": False}),
        ("PATCH", "/agent/node1", {"schedulable": True}),
        ("POST", "/agent/node1/drain", None),
    ]


def test_run_asks_for_what_was_said_alone(moor: Moor, heard: Heard) -> None:
    done(
        moor("run", "img", "-d", "--gpu", "0.5", "--slot", "tpu.device=2", "--cluster-size", "4", "--cluster-mode",
             "multi-node", "--after", "a", "--after", "b", "--on-dependency-failure", "run", "--not-before", "10m",
             "--arch", "aarch64", "--no-preemptible", "--job-priority", "-3", "--group", "gpu", "--", "true")
    )  # fmt: skip
    assert heard.last[2] == {
        "image": "img", "type": "batch", "command": ["true"], "env": {},
        "resources": {"cpu": "1", "mem": "256m", "cuda.shares": "0.5", "tpu.device": "2"},
        "cluster_size": 4, "cluster_mode": "multi-node", "dependencies": ["a", "b"], "on_dependency_failure": "run",
        "not_before": "10m", "architecture": "aarch64", "preemptible": False, "job_priority": -3,
        "resource_group": "gpu",
    }  # fmt: skip
    done(moor("run", "img", "-d"))
    assert set(heard.last[2]) == {"image", "type", "command", "env", "resources"}


@pytest.mark.parametrize(("words", "slots"), [("2", {"cuda.device": "2"}), ("1.25", {"cuda.shares": "1.25"})])
def test_whole_gpus_are_devices_and_parts_are_shares(
    moor: Moor, heard: Heard, words: str, slots: dict[str, str]
) -> None:
    done(moor("run", "img", "-d", "--gpu", words))
    assert heard.last[2]["resources"] == {"cpu": "1", "mem": "256m", **slots}


def test_gpus_that_are_no_number_are_refused(moor: Moor, heard: Heard) -> None:
    for words in ("many", "nan", "inf"):
        outcome = moor("run", "img", "-d", "--gpu", words)
        assert outcome.returncode == 1
        assert "--gpu" in outcome.stderr
    assert heard.asked == []
