"""What a session's environment makes the simulated runtime do."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_worker.runtimes.contract import CreateRefused
from agent_worker.runtimes.simulated import SimulatedRuntime
from tests.agent.specs import a_spec


async def test_a_container_that_ends_at_once_answers_with_its_exit(simulated_runtime: SimulatedRuntime) -> None:
    exit = (await simulated_runtime.create(a_spec("exit", "3"))).exit
    assert exit is not None
    assert exit.exit_code == 3


async def test_memory_can_run_out(simulated_runtime: SimulatedRuntime) -> None:
    spec = a_spec(MOORAGE_SIM_OOM="1", MOORAGE_SIM_RUN_S="0")
    exit = (await simulated_runtime.create(spec)).exit
    assert exit is not None
    assert (exit.exit_code, exit.oom_killed) == (137, True)


async def test_creation_can_be_refused(simulated_runtime: SimulatedRuntime) -> None:
    with pytest.raises(CreateRefused):
        await simulated_runtime.create(a_spec(MOORAGE_SIM_FAIL_CREATE="1"))
    assert await simulated_runtime.containers() == []


async def test_a_polite_stop_ends_with_sigterm(simulated_runtime: SimulatedRuntime) -> None:
    await simulated_runtime.create(a_spec())
    [seen] = await simulated_runtime.containers()
    assert (await simulated_runtime.stop(seen, 10)).exit_code == 143


async def test_a_stopped_container_is_told_as_docker_tells_it(simulated_runtime: SimulatedRuntime) -> None:
    spec = a_spec()
    await simulated_runtime.create(spec)
    [seen] = await simulated_runtime.containers()
    await simulated_runtime.stop(seen, 0)
    assert (await anext(simulated_runtime.exits())).exit.kernel_id == spec.kernel_id


async def test_containers_outlive_the_agent_and_end_on_time(tmp_path: Path) -> None:
    file = tmp_path / "containers.json"
    spec = a_spec(MOORAGE_SIM_RUN_S="0.3", MOORAGE_SIM_EXIT_CODE="5")
    first = SimulatedRuntime(file)
    await first.create(spec)
    await first.close()
    second = SimulatedRuntime(file)
    [seen] = await second.containers()
    assert (seen.kernel_id, seen.state) == (spec.kernel_id, "running")
    assert (await anext(second.exits())).exit.exit_code == 5
    await second.close()
