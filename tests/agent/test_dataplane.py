"""Logs and exec over HTTP, for bearers of the right token only."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from agent_worker import dataplane
from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.dataplane import issue_token
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec

KEY = "k" * 32


@pytest.fixture
async def http(simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs) -> AsyncIterator[httpx.AsyncClient]:
    app = dataplane.build(simulated_runtime, kept_logs, agent_id="n1", key=KEY)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent") as client:
        yield client


def _bearing(kernel_id: str, action: str, *, agent_id: str = "n1", key: str = KEY) -> dict[str, str]:
    token = issue_token(key, agent_id=agent_id, kernel_id=kernel_id, action=action)
    return {"Authorization": f"Bearer {token}"}


def _logs(spec: KernelSpec) -> str:
    return f"/logs/{spec.session_id}/{spec.kernel_id}"


def _exec(spec: KernelSpec) -> str:
    return f"/exec/{spec.session_id}/{spec.kernel_id}"


async def test_health_needs_no_token(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json()["status"] == "ok"


async def test_logs_of_a_running_container_come_from_the_runtime(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime
) -> None:
    spec = a_spec()
    await simulated_runtime.create(spec)
    answer = await http.get(_logs(spec), headers=_bearing(spec.kernel_id, "logs"))
    assert (answer.status_code, answer.text) == (200, "simulated: started\n")


async def _lines() -> AsyncIterator[bytes]:
    yield b"one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", "one\ntwo\nthree\n"), ("?tail=2", "two\nthree\n"), ("?tail=0", ""), ("?tail=9", "one\ntwo\nthree\n")],
)
async def test_logs_of_an_ended_container_come_from_what_was_kept(
    http: httpx.AsyncClient, kept_logs: KeptLogs, query: str, expected: str
) -> None:
    spec = a_spec()
    await kept_logs.keep(spec.session_id, spec.kernel_id, 0, _lines())
    assert (await http.get(_logs(spec) + query, headers=_bearing(spec.kernel_id, "logs"))).text == expected


async def test_a_log_that_nobody_knows_is_not_found(http: httpx.AsyncClient) -> None:
    spec = a_spec()
    answer = await http.get(_logs(spec), headers=_bearing(spec.kernel_id, "logs"))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        _bearing("another-kernel", "logs"),
        _bearing("11111111-1111-4111-8111-111111111111", "exec"),
        _bearing("11111111-1111-4111-8111-111111111111", "logs", agent_id="n2"),
        _bearing("11111111-1111-4111-8111-111111111111", "logs", key="x" * 32),
    ],
    ids=["none", "malformed", "other kernel", "other action", "other agent", "other key"],
)
async def test_without_the_right_token_nothing_is_told(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    spec = a_spec(kernel_id="11111111-1111-4111-8111-111111111111")
    answer = await http.get(_logs(spec), headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


async def test_a_command_answers_with_its_exit_code_and_outputs(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime
) -> None:
    spec = a_spec()
    await simulated_runtime.create(spec)
    answer = await http.post(_exec(spec), json={"command": ["ls"]}, headers=_bearing(spec.kernel_id, "exec"))
    assert answer.json() == {"exit_code": 0, "stdout": "simulated: ls\n", "stderr": ""}


async def test_a_command_in_what_does_not_run_is_refused(http: httpx.AsyncClient) -> None:
    spec = a_spec()
    answer = await http.post(_exec(spec), json={"command": ["ls"]}, headers=_bearing(spec.kernel_id, "exec"))
    assert (answer.status_code, answer.json()["code"]) == (409, "session-not-running")


@pytest.mark.parametrize("body", ["nonsense", "[]", "{}", '{"command": []}', '{"command": "ls"}', '{"command": [1]}'])
async def test_a_malformed_command_is_a_bad_request(http: httpx.AsyncClient, body: str) -> None:
    spec = a_spec()
    answer = await http.post(_exec(spec), content=body, headers=_bearing(spec.kernel_id, "exec"))
    assert answer.status_code == 400
