"""Health and restarts on the command line."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.cli import health, show
from moorage.cli.sessions import how_it_ended
from moorage.domain.errors import InvalidRequest


def wish(command: str | None = None, port: int | None = None, **more: Any) -> Any:
    nothing = dict.fromkeys(("every_s", "timeout_s", "retries", "start_within_s"))
    return health.wish(command, port, **{**nothing, **more})


def test_without_anything_to_check_nothing_is_asked() -> None:
    assert wish() is None
    assert wish(port=80) == {"live": {"port": 80}}
    with pytest.raises(InvalidRequest, match="--health-cmd or --health-port"):
        wish(retries=3)


@pytest.mark.parametrize(
    ("status", "found", "shown"),
    [
        ("RUNNING", "starting", "RUNNING (starting)"),
        ("RUNNING", "unhealthy", "RUNNING (unhealthy)"),
        ("RUNNING", "healthy", "RUNNING"),
        ("RUNNING", "", "RUNNING"),
        ("ERROR", "unhealthy", "ERROR"),
    ],
)
def test_a_list_marks_what_is_not_well(status: str, found: str, shown: str) -> None:
    assert health.status({"status": status, "health_status": found}) == shown


def test_a_kernel_says_what_is_wrong_with_it() -> None:
    ill = {"health": "unhealthy", "health_message": "exit code 1: connection refused"}
    assert health.of_kernel(ill) == ", unhealthy: exit code 1: connection refused"
    assert health.of_kernel({"health": "healthy", "health_message": "ready after 2.0 s"}) == ", healthy"
    assert health.of_kernel({}) == ""


def test_how_it_is_checked_is_shown_in_words() -> None:
    probe = {"command": [], "port": 8080, "every_s": 10, "timeout_s": 5, "failures": 3}
    session = {"health": {"start": None, "live": probe, "start_within_s": 60}, "restart_policy": "always",
               "restarts": 2, "max_restarts": 5}  # fmt: skip
    assert health.facts(session) == {
        "health": f"live: port 8080 every 10.0 s, 3 failures; ready within {show.duration(60)}",
        "restarts": "2, always, at most 5 in a row",
    }
    assert health.facts({"health": None}) == {}


@pytest.mark.parametrize(
    ("code", "info", "words"),
    [
        (0, "exit code 0", "exit code 0"),
        (127, "exit code 127: its command was not found", "exit code 127: its command was not found"),
        (12, "exit code 1", "exit code 12, exit code 1"),
        (137, "killed for memory", "exit code 137, killed for memory"),
        (None, "by user:ada", "by user:ada"),
    ],
)
def test_an_end_names_its_exit_code_once(code: int | None, info: str, words: str) -> None:
    session = {"name": "s", "status": "TERMINATED", "reason": "ended", "exit_code": code, "status_info": info}
    assert how_it_ended(session) == f"s terminated: ended, {words}"
