"""What `moor` asks about idleness, and how it tells the answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.support.command import Moor, moor_for, served

RULE: dict[str, Any] = {"cpu_percent": 5.0, "device_percent": 5.0, "net_bps": None, "grace_s": 300.0, "dry_run": False}
SESSION: dict[str, Any] = {
    "id": "5b1e", "name": "notebook", "lifetime_s": 7200.0, "started_at": "2026-01-01T10:00:00+00:00",
    "kept_until": "2026-01-01T12:00:00+00:00", "status": "RUNNING", "command": [], "slots": {},
    "idle": {"after_s": 3600.0, **RULE},
}  # fmt: skip
IDLE: dict[str, Any] = {
    "items": [
        {"name": "notebook", "user": "ada@example.org", "stage": "warned", "idle_since": "2026-01-01T10:00:00+00:00",
         "low": "CPU 0.4 % of 2 cores (below 5 %)", "stops_at": "2026-01-01T12:00:00+00:00", "idle": {**RULE}},
        {"name": "tried", "user": "bob@example.org", "stage": "idle", "idle_since": "2026-01-01T10:00:00+00:00",
         "low": "devices 0.0 % (below 5 %)", "stops_at": "2026-01-01T12:00:00+00:00", "idle": RULE | {"dry_run": True}},
    ],
    "total": 3, "limit": 2, "unanswered": ["node7"],
}  # fmt: skip
POLICY: dict[str, Any] = {"kind": "user", "name": "default", "idle_timeout_s": 3600.0, "idle": RULE, "used_by": 2}


@pytest.fixture
def heard() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def moor(heard: list[tuple[str, Any]], tmp_path: Path) -> Iterator[Moor]:
    app = FastAPI(openapi_url=None)

    @app.api_route("/{path:path}", methods=["GET", "POST", "PATCH"])
    async def answer(path: str, request: Request) -> Response:
        if request.method != "GET":
            heard.append((f"{request.method} /{path}", await request.json()))
        return JSONResponse({"idle": IDLE, "session": SESSION, "policy": POLICY}[path.split("/")[0]])

    with served(app) as endpoint:
        yield moor_for(endpoint, tmp_path)


def done(outcome: Any) -> str:
    assert outcome.returncode == 0, outcome.stderr
    return str(outcome.stdout)


def test_run_asks_for_what_was_said_of_idleness_and_for_nothing_else(moor: Moor, heard: list[tuple[str, Any]]) -> None:
    done(moor("run", "python:3", "-d", "--idle", "1h", "--idle-cpu", "3", "--idle-net", "1000", "--idle-grace", "5m"))
    assert heard[-1][1]["idle"] == {"after_s": 3600.0, "cpu_percent": 3.0, "net_bps": 1000.0, "grace_s": 300.0}
    done(moor("run", "python:3", "-d", "--idle", "1h", "--idle-device", "9", "--idle-dry-run"))
    assert heard[-1][1]["idle"] == {"after_s": 3600.0, "device_percent": 9.0, "dry_run": True}
    done(moor("run", "python:3", "-d", "--no-idle"))
    assert heard[-1][1]["idle"] == {"exempt": True}
    done(moor("run", "python:3", "-d"))
    assert "idle" not in heard[-1][1]


def test_extend_says_how_long_and_tells_until_when(moor: Moor, heard: list[tuple[str, Any]]) -> None:
    said = done(moor("extend", "notebook", "2h", TZ="UTC"))
    assert heard == [("POST /session/notebook/extend", {"for": "7200s"})]
    assert said == (
        "notebook is not stopped for idleness before 2026-01-01 12:00:00; its life ends at 2026-01-01 12:00:00\n"
    )
    assert moor("extend", "notebook", "soon").returncode != 0


def test_idle_shows_who_is_stopped_and_who_only_would_be(moor: Moor) -> None:
    outcome = moor("idle", TZ="UTC")
    lines = done(outcome).splitlines()
    assert lines[0].split() == ["NAME", "USER", "STAGE", "IDLE", "FOR", "WHAT", "STOPPED", "AT"]
    assert "CPU 0.4 % of 2 cores (below 5 %)" in lines[1]
    assert lines[1].rstrip().endswith("2026-01-01 12:00:00")
    assert lines[2].rstrip().endswith("2026-01-01 12:00:00 (dry run: is not)")
    assert outcome.stderr == "no answer from node7\n2 of 3 shown\n"


def test_show_says_what_idleness_means_for_a_session(moor: Moor) -> None:
    words = "warned when idle for 1 h (CPU < 5 %, devices < 5 %), stopped 5 min later"
    assert words in done(moor("show", "notebook"))


def test_a_policy_keeps_what_is_not_named_of_idleness(moor: Moor, heard: list[tuple[str, Any]]) -> None:
    said = done(moor("admin", "policy", "set", "user", "default", "--idle-cpu", "none", "--idle-grace", "10m"))
    assert heard[-1] == ("PATCH /policy/user/default", {"idle": RULE | {"cpu_percent": None, "grace_s": 600.0}})
    assert "CPU < 5 %, devices < 5 %, 5 min after the warning" in said
    done(moor("admin", "policy", "create", "user", "x", "--idle-timeout", "1h", "--idle-dry-run"))
    assert heard[-1][1] == {"kind": "user", "name": "x", "idle_timeout_s": 3600.0, "idle": {"dry_run": True}}
    assert moor("admin", "policy", "set", "user", "default", "--idle-cpu", "low").returncode == 1
