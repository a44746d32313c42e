"""Logs and exec over HTTP, for bearers of the right token only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from agent_worker import dataplane
from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.dataplane import EVERY_KERNEL, issue_token
from moorage.domain.session import KernelSpec
from moorage.domain.stats import node_stats_of
from tests.agent.specs import a_spec

KEY = "k" * 32


@pytest.fixture
async def meter(simulated_runtime: SimulatedRuntime) -> Meter:
    return Meter(simulated_runtime, simulated_runtime.devices)


@pytest.fixture
async def http(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, meter: Meter
) -> AsyncIterator[httpx.AsyncClient]:
    app = dataplane.build(simulated_runtime, kept_logs, agent_id="n1", key=KEY, meter=meter)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://agent") as client:
        yield client


def _bearing(
    kernel_id: str, action: str, *, agent_id: str = "n1", key: str = KEY, session_id: str = ""
) -> dict[str, str]:
    token = issue_token(key, agent_id=agent_id, kernel_id=kernel_id, action=action, session_id=session_id)
    return {"Authorization": f"Bearer {token}"}


def _for(spec: KernelSpec, action: str) -> dict[str, str]:
    return _bearing(spec.kernel_id, action, session_id=spec.session_id)


def _logs(spec: KernelSpec) -> str:
    return f"/logs/{spec.session_id}/{spec.kernel_id}"


def _exec(spec: KernelSpec) -> str:
    return f"/exec/{spec.session_id}/{spec.kernel_id}"


async def test_health_needs_no_token(http: httpx.AsyncClient) -> None:
    assert (await http.get("/health")).json()["status"] == "ok"


async def test_stats_of_a_session_are_of_its_kernels_alone(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime, meter: Meter
) -> None:
    spec, other = a_spec(), a_spec()
    for one in (spec, other):
        await simulated_runtime.create(one)
    await meter.look()
    answer = await http.get(f"/stats/{spec.session_id}?since_s=60", headers=_bearing(spec.session_id, "stats"))
    found = node_stats_of(answer.json())
    [kernel] = found.kernels
    assert (kernel.kernel_id, kernel.session_id, found.node) == (spec.kernel_id, spec.session_id, None)
    assert kernel.stats is not None
    assert (kernel.stats.cpu, kernel.stats.cpu_limit) == (None, 500)
    assert len(kernel.history) == 1


async def test_stats_of_the_node_are_of_everything(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime, meter: Meter
) -> None:
    specs = [replace(a_spec(), devices={"gpu-0": 1}), a_spec()]
    for one in specs:
        await simulated_runtime.create(one)
    await meter.look()
    found = node_stats_of((await http.get("/stats", headers=_bearing(EVERY_KERNEL, "stats"))).json())
    assert {kernel.kernel_id for kernel in found.kernels} == {one.kernel_id for one in specs}
    assert found.node is not None
    assert [device.device_id for device in found.devices] == ["gpu-0"]
    assert [kernel.history for kernel in found.kernels] == [[], []]


async def test_stats_are_told_only_for_their_own_token(http: httpx.AsyncClient) -> None:
    session_id = a_spec().session_id
    for path, subject, action in [
        (f"/stats/{session_id}", a_spec().session_id, "stats"),
        (f"/stats/{session_id}", session_id, "logs"),
        ("/stats", session_id, "stats"),
        (f"/stats/{session_id}", EVERY_KERNEL, "stats"),
    ]:
        assert (await http.get(path, headers=_bearing(subject, action))).status_code == 401


@pytest.mark.parametrize("since", ["-1", "soon", "1.2.3", "nan"])
async def test_stats_since_something_else_than_seconds_are_a_bad_request(http: httpx.AsyncClient, since: str) -> None:
    answer = await http.get(f"/stats?since_s={since}", headers=_bearing(EVERY_KERNEL, "stats"))
    assert answer.status_code == 400


async def test_logs_of_a_running_container_come_from_the_runtime(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime
) -> None:
    spec = a_spec()
    await simulated_runtime.create(spec)
    answer = await http.get(_logs(spec), headers=_for(spec, "logs"))
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
    assert (await http.get(_logs(spec) + query, headers=_for(spec, "logs"))).text == expected


async def test_a_log_that_nobody_knows_is_not_found(http: httpx.AsyncClient) -> None:
    spec = a_spec()
    answer = await http.get(_logs(spec), headers=_for(spec, "logs"))
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


ONE, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer nonsense"},
        _bearing("another-kernel", "logs", session_id=OTHER),
        _bearing(ONE, "exec", session_id=OTHER),
        _bearing(ONE, "logs", session_id=OTHER, agent_id="n2"),
        _bearing(ONE, "logs", session_id=OTHER, key="x" * 32),
        _bearing(ONE, "logs", session_id=ONE),
        _bearing(ONE, "logs"),
    ],
    ids=[
        "none",
        "malformed",
        "other kernel",
        "other action",
        "other agent",
        "other key",
        "other session",
        "no session",
    ],
)
async def test_without_the_right_token_nothing_is_told(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    answer = await http.get(f"/logs/{OTHER}/{ONE}", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


async def test_a_command_answers_with_its_exit_code_and_outputs(
    http: httpx.AsyncClient, simulated_runtime: SimulatedRuntime
) -> None:
    spec = a_spec()
    await simulated_runtime.create(spec)
    answer = await http.post(_exec(spec), json={"command": ["ls"]}, headers=_for(spec, "exec"))
    assert answer.json() == {"exit_code": 0, "stdout": "simulated: ls\n", "stderr": ""}


async def test_a_command_in_what_does_not_run_is_refused(http: httpx.AsyncClient) -> None:
    spec = a_spec()
    answer = await http.post(_exec(spec), json={"command": ["ls"]}, headers=_for(spec, "exec"))
    assert (answer.status_code, answer.json()["code"]) == (409, "session-not-running")


@pytest.mark.parametrize("body", ["nonsense", "[]", "{}", '{"command": []}', '{"command": "ls"}', '{"command": [1]}'])
async def test_a_malformed_command_is_a_bad_request(http: httpx.AsyncClient, body: str) -> None:
    spec = a_spec()
    answer = await http.post(_exec(spec), content=body, headers=_for(spec, "exec"))
    assert answer.status_code == 400
