"""The command line against an API of a few canned answers, over a real socket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from tests.support.command import Moor, moor_for, served

LIFE = ["PENDING", "SCHEDULED", "CREATING", "RUNNING", "TERMINATED"]


class Story:
    """One session that moves a step each time that somebody waits for it."""

    def __init__(self) -> None:
        self.life = list(LIFE)
        self.at = 0
        self.exit_code: int | None = 0
        self.reason = "self-terminated"
        self.submitted: dict[str, Any] = {}
        self.last_lines = ""

    def session(self) -> dict[str, Any]:
        over = self.at == len(self.life) - 1
        return {
            "id": "5b1e", "name": "prime-1", "status": self.life[self.at], "status_info": "", "result": "UNDEFINED",
            "exit_code": self.exit_code if over else None, "reason": self.reason if over else "",
            "image": "python:3", "type": self.submitted.get("type", "batch"), "command": ["true"], "user": "u",
            "project": "p", "domain": "d", "resource_group": "default", "agent": "node1", "priority": 10,
            "slots": {"cpu": 1000, "mem": 256 * 1024**2}, "attempt": 1, "created_at": "2026-01-01T00:00:00+00:00",
            "status_changed": None, "started_at": None, "terminated_at": None, "links": {"temporal": None},
            "last_lines": self.last_lines if over else "",
        }  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        return [
            {"seq": n + 1, "from_status": None, "to_status": status, "at": f"2026-01-01T00:00:0{n}+00:00",
             "actor": "test", "reason": "", "message": "", "attempt": 1}
            for n, status in enumerate(self.life[: self.at + 1])
        ]  # fmt: skip


def fake_api(story: Story) -> FastAPI:
    app = FastAPI()

    @app.post("/session", status_code=201)
    async def submit(request: Request) -> dict[str, Any]:
        story.submitted = await request.json()
        return story.session()

    @app.get("/session")
    async def sessions() -> dict[str, Any]:
        return {"items": [story.session()], "total": 1, "limit": 100, "offset": 0}

    @app.get("/session/{ref}", response_model=None)
    async def session(ref: str, wait_from: str = "") -> dict[str, Any] | JSONResponse:
        if ref == "nobody":
            problem = {"type": "about:blank", "title": "Not found", "status": 404, "code": "object-not-found",
                       "msg": "no session 'nobody'", "hint": "moor ps lists them", "data": {}}  # fmt: skip
            return JSONResponse(problem, 404, media_type="application/problem+json")
        if wait_from and story.at < len(story.life) - 1:
            story.at += 1
        return story.session()

    @app.delete("/session/{ref}", status_code=202)
    async def stop(ref: str) -> dict[str, Any]:
        return story.session()

    @app.get("/session/{ref}/events")
    async def events(ref: str) -> dict[str, Any]:
        return {"items": story.events()}

    @app.get("/session/{ref}/logs", response_model=None)
    async def logs(ref: str, follow: bool = False) -> PlainTextResponse | StreamingResponse:
        pieces = (
            'event: log\ndata: {"text": "17\\n"}\n\nevent: log\ndata: {"text": "984\\n"}\n\nevent: end\ndata: {}\n\n'
        )
        if follow:
            return StreamingResponse(iter([pieces]), media_type="text/event-stream")
        return PlainTextResponse("17\n984\n")

    @app.post("/session/{ref}/exec")
    async def execute(ref: str, request: Request) -> dict[str, Any]:
        return {"exit_code": 3, "stdout": " ".join((await request.json())["command"]), "stderr": "oh"}

    return app


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def endpoint(story: Story) -> Iterator[str]:
    with served(fake_api(story)) as address:
        yield address


@pytest.fixture
def moor(endpoint: str, tmp_path: Path) -> Moor:
    return moor_for(endpoint, tmp_path)


def test_run_follows_a_batch_session_to_its_end_and_keeps_its_exit_code(moor: Moor, story: Story) -> None:
    story.exit_code = 7
    outcome = moor("run", "python:3", "--env", "A=b=c", "--", "python3", "-c", "print()")
    assert outcome.returncode == 7
    assert outcome.stdout == "17\n984\n"
    steps = [line.split()[0] for line in outcome.stderr.splitlines()]
    assert steps[:5] == ["queued", "scheduled", "creating", "running", "terminated"]
    assert story.submitted["type"] == "batch"
    assert story.submitted["command"] == ["python3", "-c", "print()"]
    assert story.submitted["env"] == {"A": "b=c"}


def test_run_asks_for_deadlines_in_seconds_however_they_are_written(moor: Moor, story: Story) -> None:
    lengths = ("--pending-timeout", "10m", "--lifetime", "2h", "--batch-timeout", "90", "--grace", "1.5s")
    outcome = moor("run", "python:3", *lengths, "--group", "gpu", "--on-node-loss", "requeue", "-d", "--", "true")
    assert outcome.returncode == 0, outcome.stderr
    names = ("pending_timeout_s", "lifetime_s", "batch_timeout_s", "grace_s", "resource_group", "on_node_loss")
    assert [story.submitted[name] for name in names] == [600, 7200, 90, 1.5, "gpu", "requeue"]


def test_what_is_not_asked_for_is_left_to_the_api(moor: Moor, story: Story) -> None:
    moor("run", "python:3", "-d")
    assert set(story.submitted) == {"image", "type", "command", "env", "resources"}


def test_run_asks_for_checks_and_restarts(moor: Moor, story: Story) -> None:
    checks = (
        "--health-cmd",
        "test -f /ready",
        "--health-every",
        "2s",
        "--health-timeout",
        "1",
        "--health-retries",
        "5",
    )
    policy = ("--health-start-within", "5m", "--restart", "on-failure", "--max-restarts", "9")
    outcome = moor("run", "python:3", *checks, *policy, "-d", "--", "serve")
    assert outcome.returncode == 0, outcome.stderr
    probe = {"command": ["sh", "-c", "test -f /ready"], "every_s": 2, "timeout_s": 1, "failures": 5}
    assert story.submitted["health"] == {"live": probe, "start_within_s": 300}
    assert (story.submitted["restart_policy"], story.submitted["max_restarts"]) == ("on-failure", 9)


def test_an_error_is_followed_by_the_last_lines(moor: Moor, story: Story) -> None:
    story.life = ["PENDING", "SCHEDULED", "CREATING", "ERROR"]
    story.reason, story.last_lines = "crash-loop", "Traceback:\n  out of ideas"
    outcome = moor("run", "python:3")
    assert outcome.returncode == 125
    assert outcome.stdout == ""
    assert outcome.stderr.endswith("its last lines:\n  Traceback:\n    out of ideas\n")


def test_a_length_of_time_that_is_none_is_refused_with_those_that_are(moor: Moor, story: Story) -> None:
    outcome = moor("run", "python:3", "--grace", "5x")
    assert outcome.returncode == 2
    assert "'5x' is not a length of time" in outcome.stderr
    assert story.submitted == {}


def test_ctrl_c_detaches_and_says_how_to_come_back(endpoint: str, story: Story, tmp_path: Path) -> None:
    story.life = ["PENDING"] * 1_000_000  # it never ends
    keys = {"MOORAGE_ENDPOINT": endpoint, "MOORAGE_ACCESS_KEY": "a", "MOORAGE_SECRET_KEY": "s"}
    with subprocess.Popen(
        [sys.executable, "-m", "moorage.cli.main", "run", "python:3", "--", "true"],
        env=os.environ | keys | {"MOORAGE_CONFIG_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()  # queued: it follows now
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Follow it: moor logs -f prime-1. End it: moor stop prime-1" in said


def test_run_without_a_command_ends_when_the_session_runs(moor: Moor, story: Story) -> None:
    outcome = moor("run", "python:3")
    assert outcome.returncode == 0
    assert story.submitted["type"] == "interactive"
    assert "is running" in outcome.stderr


def test_run_of_a_session_that_fails_says_why_and_exits_with_125(moor: Moor, story: Story) -> None:
    story.life, story.reason, story.exit_code = ["PENDING", "ERROR"], "image-pull-failed", None
    outcome = moor("run", "no-such-image", "--", "true")
    assert outcome.returncode == 125
    assert "image-pull-failed" in outcome.stderr


def test_json_puts_nothing_but_json_on_stdout(moor: Moor) -> None:
    for arguments in (["run", "python:3", "--json", "--", "true"], ["ps", "--json"], ["show", "x", "--json"]):
        json.loads(moor(*arguments).stdout)


def test_exec_passes_output_and_exit_code_through(moor: Moor) -> None:
    outcome = moor("exec", "prime-1", "--", "ls", "-l")
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, "ls -l", "oh")


def test_stop_waits_for_the_end_and_says_how_it_was(moor: Moor, story: Story) -> None:
    story.reason = "user-requested"
    outcome = moor("stop", "prime-1")
    assert "prime-1 terminated: user-requested" in outcome.stdout


def test_the_timeline_tells_how_long_each_step_took(moor: Moor, story: Story) -> None:
    story.at = 2
    outcome = moor("events", "prime-1")
    assert outcome.stdout.count("1.0 s") == 2


def test_a_refusal_is_said_in_the_words_of_the_api_without_a_traceback(moor: Moor) -> None:
    outcome = moor("show", "nobody")
    assert outcome.returncode == 1
    assert outcome.stderr == "moor: no session 'nobody'\nhint: moor ps lists them\n"


def test_an_api_that_is_away_is_said_in_plain_words(moor: Moor) -> None:
    outcome = moor("ps", MOORAGE_ENDPOINT="http://127.0.0.1:1")
    assert outcome.returncode == 1
    assert "no answer from http://127.0.0.1:1" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_without_keys_the_client_says_how_to_get_them(moor: Moor) -> None:
    outcome = moor("ps", MOORAGE_ACCESS_KEY="")
    assert outcome.returncode == 1
    assert "moor up" in outcome.stderr


def test_a_pipe_gets_no_colours(moor: Moor) -> None:
    assert "\x1b" not in moor("ps").stdout
