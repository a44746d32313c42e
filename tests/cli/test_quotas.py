"""What the verbs about quotas, grants and policies ask of the API, and how they show its answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from tests.support.command import Moor, moor_for, served

GRANT: dict[str, Any] = {
    "id": "11111111-0000-4000-8000-000000000001", "scope": "project", "name": "default/default", "slot": "cuda.device",
    "amount": 4, "starts_at": "2030-01-01T08:00:00+00:00", "ends_at": "2030-01-04T08:00:00+00:00", "state": "in-force",
    "reason": "the deadline", "given_by": "root@example.org",
}  # fmt: skip
QUOTA: dict[str, Any] = {
    "scope": "project", "name": "default/default", "policy": "default", "sessions": {"used": 3, "limit": 10},
    "pending": {"used": 0, "limit": None},
    "slots": {"cpu": {"used": 1500, "limit": 6000}, "mem": {"used": 0, "limit": 0}},
    "pending_slots": {"cpu": {"used": 500, "limit": None}},
    "ceilings": {"max_priority": 10, "max_lifetime_s": 7200.0, "max_containers": None}, "grants": [GRANT],
}  # fmt: skip
POLICY: dict[str, Any] = {
    "kind": "user", "name": "small", "description": "", "used_by": 2, "max_sessions": 5,
    "max_slots": {"cpu": 1500, "cuda.shares": 50}, "max_pending": None, "max_pending_slots": {}, "max_containers": 2,
    "max_priority": 10, "max_job_priority": -1, "max_lifetime_s": 7200.0, "idle_timeout_s": None,
    "allowed_folder_hosts": ["local"],
}  # fmt: skip


class Heard:
    """Requests, as (method, path with its query, body)."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []

    def app(self) -> FastAPI:
        app = FastAPI(openapi_url=None)

        @app.api_route("/{path:path}", methods=["GET", "POST", "PATCH", "DELETE"])
        async def answer(path: str, request: Request) -> Response:
            asked = f"/{path}?{request.url.query}".removesuffix("?")
            self.asked.append((request.method, asked, await request.json() if await request.body() else None))
            if request.method == "DELETE":
                return Response(status_code=204)
            item = {"quota": QUOTA, "grant": GRANT, "policy": POLICY}[path.split("/")[0]]
            return JSONResponse({"items": [item]} if request.method == "GET" and "/" not in path else item)

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


def test_quotas_show_used_and_limit_in_one_look(moor: Moor, heard: Heard) -> None:
    outcome = moor("quota")
    lines = [" ".join(line.split()) for line in done(outcome).splitlines()]
    assert lines == [
        "SCOPE NAME WHAT USED LIMIT",
        "project default/default sessions 3 10 ▇▇▇······· 30%",
        "cpu 1.5 6 ▇▇········ 25%",
        "mem 0 B 0 B ▇▇▇▇▇▇▇▇▇▇ 100%",
        "pending 0",
        "one session priority 10, lifetime 2 h 00 m",
    ]
    assert "+4 cuda.device from 2030-01-01 08:00 until 2030-01-04 08:00 (the deadline)" in outcome.stderr
    assert heard.asked == [("GET", "/quota", None)]


def test_quotas_of_somebody_are_asked_by_scope_and_name(moor: Moor, heard: Heard) -> None:
    done(moor("quota", "project", "default/default"))
    done(moor("quota", "show", "user", "ada@example.org", "--json"))
    assert [path for _, path, _ in heard.asked] == [
        "/quota?scope=project&name=default%2Fdefault",
        "/quota?scope=user&name=ada%40example.org",
    ]
    assert moor("quota", "team", "x").returncode != 0


def test_grants_are_given_listed_and_taken_back(moor: Moor, heard: Heard) -> None:
    words = done(
        moor("quota", "grant", "project", "default/default", "cuda.device", "4", "--until", "3d", "--reason", "why not")
    )
    assert words.startswith(f"{GRANT['id']}: +4 cuda.device from")
    assert "root@example.org" in done(moor("quota", "grants"))
    done(moor("quota", "revoke", GRANT["id"]))
    assert heard.asked == [
        (
            "POST",
            "/grant",
            {"scope": "project", "name": "default/default", "slot": "cuda.device", "amount": "4", "ends": "3d",
             "reason": "why not"},
        ),
        ("GET", "/grant", None),
        ("DELETE", f"/grant/{GRANT['id']}", None),
    ]  # fmt: skip
    done(moor("quota", "grant", "user", "a", "cpu", "1", "--until", "3d", "--from", "1h"))
    assert heard.asked[-1][2]["starts"] == "1h"


def test_policies_are_listed_shown_and_removed(moor: Moor, heard: Heard) -> None:
    assert "cpu 1.5, cuda.shares 0.5" in done(moor("admin", "policy", "ls"))
    assert "2 h 00 m" in done(moor("admin", "policy", "show", "user", "small"))
    done(moor("admin", "policy", "ls", "user", "--json"))
    done(moor("admin", "policy", "rm", "user", "small"))
    assert [asked[:2] for asked in heard.asked] == [
        ("GET", "/policy"),
        ("GET", "/policy/user/small"),
        ("GET", "/policy?kind=user"),
        ("DELETE", "/policy/user/small"),
    ]


def test_a_policy_is_made_of_what_was_named(moor: Moor, heard: Heard) -> None:
    done(
        moor("admin", "policy", "create", "user", "small", "--description", "few", "--max-sessions", "5", "--max",
             "cpu=1.5", "--max-containers", "2", "--max-priority", "10", "--max-job-priority", "-1", "--max-lifetime",
             "2h", "--allow-folder-host", "local")
    )  # fmt: skip
    assert heard.asked == [
        (
            "POST",
            "/policy",
            {"kind": "user", "name": "small", "description": "few", "max_sessions": 5, "max_slots": {"cpu": "1.5"},
             "max_containers": 2, "max_priority": 10, "max_job_priority": -1, "max_lifetime_s": 7200.0,
             "allowed_folder_hosts": ["local"]},
        )
    ]  # fmt: skip


def test_what_is_not_named_of_a_policy_stays(moor: Moor, heard: Heard) -> None:
    done(moor("admin", "policy", "set", "user", "small", "--max", "mem=1g", "--max", "cpu=none"))
    done(moor("admin", "policy", "set", "user", "small", "--max-lifetime", "none", "--max-sessions", "none"))
    changes = [(path, body) for method, path, body in heard.asked if method == "PATCH"]
    assert changes == [
        ("/policy/user/small", {"max_slots": {"cuda.shares": "0.5", "mem": "1g"}}),
        ("/policy/user/small", {"max_sessions": None, "max_lifetime_s": None}),
    ]
    assert moor("admin", "policy", "set", "user", "small", "--max-lifetime", "long").returncode != 0
    assert moor("admin", "policy", "set", "user", "small", "--max-sessions", "-1").returncode != 0
