"""The promises of KernelActivities, kept on any runtime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from agent_worker.accelerators.simulated import Simulated, simulated_devices
from agent_worker.activities import NodeKernels
from agent_worker.inventory import Inventory
from agent_worker.kept_logs import KeptLogs
from agent_worker.probes import Prober
from agent_worker.proofs import Proofs
from agent_worker.runtimes.contract import Runtime, RuntimeAway
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts import activities as contract
from moorage.contracts.activities import CreatedKernel, Destroy, Destroyed, HealthChange, PullImage
from moorage.domain.health import HealthCheck, Probe
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec


async def _create(kernels: NodeKernels, spec: KernelSpec) -> CreatedKernel:
    created: CreatedKernel = await ActivityEnvironment().run(kernels.create_kernel, spec)
    return created


async def _destroy(kernels: NodeKernels, spec: KernelSpec, *, grace_s: float = 0) -> Destroyed:
    order = Destroy(spec.session_id, spec.kernel_id, spec.attempt, grace_s)
    destroyed: Destroyed = await ActivityEnvironment().run(kernels.destroy_kernel, order)
    return destroyed


async def _refusal(kernels: NodeKernels, spec: KernelSpec) -> ApplicationError:
    with pytest.raises(ApplicationError) as refused:
        await _create(kernels, spec)
    assert refused.value.non_retryable
    return refused.value


@pytest.fixture
async def inventory(tmp_path: Path) -> Inventory:
    """Two pretended GPUs, of which the second is out of order."""
    (tmp_path / "now.json").write_text('{"cuda.device-1": {"fault": "worn out"}}')
    pretended = Simulated(simulated_devices("cuda.device=2"), tmp_path / "now.json")
    found = Inventory({"simulated": pretended})
    await found.take_stock()
    return found


@pytest.mark.docker
async def test_pretended_devices_reach_a_real_container_as_variables(
    docker_runtime: DockerRuntime, kept_logs: KeptLogs, agent_id: str, inventory: Inventory
) -> None:
    spec = replace(a_spec("env", agent_id=agent_id), devices={"cuda.device-0": 1})
    await _create(NodeKernels(docker_runtime, kept_logs, inventory), spec)
    [seen] = await docker_runtime.containers()
    said = b"".join([chunk async for chunk in docker_runtime.logs(seen, follow=True)]).decode()
    assert "MOORAGE_DEVICES=cuda.device-0" in said
    assert "CUDA_VISIBLE_DEVICES=cuda.device-0" in said


@pytest.mark.parametrize(
    ("device_id", "words"),
    [("cuda.device-7", "no device cuda.device-7"), ("cuda.device-1", "cuda.device-1 is unhealthy: worn out")],
    ids=["unknown", "unhealthy"],
)
async def test_a_device_that_the_node_cannot_give_is_refused_and_no_container_is_made(
    device_id: str, words: str, runtime: Runtime, kept_logs: KeptLogs, agent_id: str, inventory: Inventory
) -> None:
    kernels = NodeKernels(runtime, kept_logs, inventory)
    refusal = await _refusal(kernels, replace(a_spec(agent_id=agent_id), devices={device_id: 1}))
    assert (refusal.type, words in refusal.message) == (contract.CREATE_REFUSED, True)
    assert await runtime.containers() == []


async def test_destroying_proves_that_it_existed_and_how_it_ended(
    runtime: Runtime, kept_logs: KeptLogs, agent_id: str
) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    destroyed = await _destroy(kernels, spec)
    assert destroyed.existed
    assert destroyed.exit is not None
    assert destroyed.exit.exit_code == 137
    assert await runtime.containers() == []


async def test_a_destroyed_kernels_log_is_kept(runtime: Runtime, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    destroyed = await _destroy(kernels, spec)
    path = kept_logs.newest(spec.session_id, spec.kernel_id)
    assert path is not None
    assert path.stat().st_size == destroyed.log_bytes


async def test_destroying_twice_is_the_same_as_once(runtime: Runtime, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    first = await _destroy(kernels, spec)
    assert first.existed
    assert await _destroy(kernels, spec) == first


async def test_destroying_tells_what_the_kernel_used(runtime: Runtime, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    usage = (await _destroy(kernels, spec)).usage
    assert usage is not None
    assert (usage.kernel_id, usage.attempt) == (spec.kernel_id, 0)
    assert usage.mem_used_peak
    assert usage.seconds >= 0


async def test_a_runtime_that_measures_nothing_keeps_no_container_from_its_end(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(containers: object) -> None:
        raise OSError("the kernel's files are away")

    monkeypatch.setattr(simulated_runtime, "measure", away)
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec()
    await _create(kernels, spec)
    destroyed = await _destroy(kernels, spec)
    assert (destroyed.existed, destroyed.usage) == (True, None)


async def test_a_disk_that_takes_nothing_keeps_no_container_from_its_end(
    runtime: Runtime, agent_id: str, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("a file in the place of a folder: nothing can be written below it")
    kernels = NodeKernels(
        runtime, KeptLogs(tmp_path / "full", cap_bytes=1000), proofs=Proofs(tmp_path / "full" / "proofs")
    )
    spec = a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    destroyed = await _destroy(kernels, spec)
    assert (destroyed.existed, destroyed.log_bytes) == (True, 0)
    assert await runtime.containers() == []
    assert (await _refusal(kernels, spec)).type == contract.KERNEL_STOPPED


async def test_a_log_that_never_ends_keeps_no_container_from_its_end(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(container: object, *, follow: bool) -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.Event().wait()

    monkeypatch.setattr(simulated_runtime, "logs", endless)
    monkeypatch.setattr("agent_worker.activities._KEEP_LOG_S", 0.05)
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec()
    await _create(kernels, spec)
    assert (await _destroy(kernels, spec)).log_bytes == 0
    assert await simulated_runtime.containers() == []


async def test_a_runtime_that_is_away_for_a_moment_is_waited_for_and_one_that_stays_away_is_left(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers = simulated_runtime.create, iter([False, False, True])

    async def create(spec: KernelSpec, reserved: object) -> object:
        if not next(answers, False):
            raise RuntimeAway("connection refused")
        return await real(spec)

    monkeypatch.setattr(simulated_runtime, "create", create)
    monkeypatch.setattr("agent_worker.activities._ASKED_AGAIN_S", 0.01)
    kernels = NodeKernels(simulated_runtime, kept_logs)
    await _create(kernels, a_spec())
    assert len(await simulated_runtime.containers()) == 1
    monkeypatch.setattr("agent_worker.activities._AWAY_S", 0.05)
    refusal = await _refusal(kernels, a_spec())
    assert (refusal.type, "does not answer" in refusal.message) == (contract.CREATE_REFUSED, True)


@pytest.mark.parametrize("attempt", [0, 1])
async def test_a_create_that_arrives_after_its_destroy_is_refused(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, attempt: int
) -> None:
    kernels, destroyed = NodeKernels(simulated_runtime, kept_logs), a_spec(attempt=1)
    await _destroy(kernels, destroyed)
    late = a_spec(kernel_id=destroyed.kernel_id, attempt=attempt)
    assert (await _refusal(kernels, late)).type == contract.KERNEL_STOPPED
    assert await simulated_runtime.containers() == []


async def test_the_next_attempt_may_start_after_a_destroy(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs
) -> None:
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec()
    await _destroy(kernels, spec)
    await _create(kernels, a_spec(kernel_id=spec.kernel_id, attempt=1))
    assert [one.attempt for one in await simulated_runtime.containers()] == [1]


async def test_creating_an_attempt_removes_the_older_ones(runtime: Runtime, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    await _create(kernels, a_spec(agent_id=agent_id, kernel_id=spec.kernel_id, attempt=1))
    assert [one.attempt for one in await runtime.containers()] == [1]


async def test_what_a_create_under_way_makes_is_destroyed_too(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs
) -> None:
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec(MOORAGE_SIM_CREATE_S="0.2")
    creating = asyncio.create_task(_create(kernels, spec))
    await asyncio.sleep(0)  # it has the lock
    destroyed = await _destroy(kernels, spec)
    await asyncio.gather(creating, return_exceptions=True)
    assert await simulated_runtime.containers() == []
    assert destroyed.existed or isinstance(creating.exception(), ApplicationError)


async def test_a_cancelled_create_leaves_nothing_that_a_destroy_misses(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs
) -> None:
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec(MOORAGE_SIM_CREATE_S="0.2")
    environment = ActivityEnvironment()
    creating = asyncio.create_task(environment.run(kernels.create_kernel, spec))
    for _ in range(5):
        await asyncio.sleep(0)
    environment.cancel()
    await _destroy(kernels, spec)
    await asyncio.gather(creating, return_exceptions=True)
    assert await simulated_runtime.containers() == []


async def test_a_forced_destroy_does_not_wait_for_the_grace_period_of_the_first(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs
) -> None:
    kernels, spec = NodeKernels(simulated_runtime, kept_logs), a_spec(MOORAGE_SIM_IGNORE_STOP="1")
    await _create(kernels, spec)
    polite = asyncio.create_task(_destroy(kernels, spec, grace_s=2))
    async with asyncio.timeout(1):
        assert (await _destroy(kernels, spec)).existed
        proof = await _destroy(kernels, spec)
    assert await simulated_runtime.containers() == []
    assert await polite == proof


async def test_refusals_carry_their_type_and_the_runtimes_words(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs
) -> None:
    kernels = NodeKernels(simulated_runtime, kept_logs)
    missing = await _refusal(kernels, a_spec(image="missing/image"))
    assert (missing.type, missing.message) == (contract.IMAGE_MISSING, "No such image: missing/image")
    assert (await _refusal(kernels, a_spec(MOORAGE_SIM_FAIL_CREATE="1"))).type == contract.CREATE_REFUSED
    with pytest.raises(ApplicationError, match="pull access denied") as failed:
        await ActivityEnvironment().run(kernels.pull_image, PullImage("missing/image"))
    assert (failed.value.type, failed.value.non_retryable) == (contract.IMAGE_PULL_FAILED, True)


async def _ended(runtime: Runtime, spec: KernelSpec) -> None:
    async with asyncio.timeout(20):
        while [one.state for one in await runtime.containers() if one.kernel_id == spec.kernel_id] != ["exited"]:
            await asyncio.sleep(0.02)


@pytest.mark.docker
async def test_what_failed_leaves_its_last_lines_without_what_it_was_given(
    docker_runtime: DockerRuntime, kept_logs: KeptLogs, agent_id: str
) -> None:
    kernels = NodeKernels(docker_runtime, kept_logs)
    says = 'echo "token $TOKEN"; cat /run/secrets/key; echo; echo out of ideas; exit $CODE'
    lines = {}
    for code in ("3", "0"):
        files = {"/run/secrets/key": b"hunter3"}
        spec = a_spec("sh", "-c", says, agent_id=agent_id, files=files, TOKEN="hunter2", CODE=code)
        await _create(kernels, spec)
        await _ended(docker_runtime, spec)
        lines[code] = (await _destroy(NodeKernels(docker_runtime, kept_logs), spec)).last_lines
    assert lines == {"3": "token [hidden]\n[hidden]\nout of ideas", "0": ""}


async def test_what_is_stopped_leaves_no_last_lines(runtime: Runtime, kept_logs: KeptLogs, agent_id: str) -> None:
    kernels, spec = NodeKernels(runtime, kept_logs), a_spec(agent_id=agent_id)
    await _create(kernels, spec)
    assert (await _destroy(kernels, spec)).last_lines == ""


async def test_a_kernel_is_checked_from_its_start_to_its_end(
    simulated_runtime: SimulatedRuntime, kept_logs: KeptLogs, agent_id: str
) -> None:
    told: asyncio.Queue[HealthChange] = asyncio.Queue()

    async def tell(session_id: str, change: HealthChange) -> None:
        told.put_nowait(change)

    kernels = NodeKernels(simulated_runtime, kept_logs, prober=Prober(simulated_runtime, tell))
    check = HealthCheck(live=Probe(["true"], every_s=0.01, failures=2))
    spec = replace(a_spec(agent_id=agent_id, MOORAGE_SIM_UNHEALTHY_AFTER_S="0.2"), health=check)
    await _create(kernels, spec)
    async with asyncio.timeout(10):
        assert (await told.get()).health == "healthy"
        ill = await told.get()
    assert (ill.kernel_id, ill.health, ill.message) == (
        spec.kernel_id,
        "unhealthy",
        "exit code 1: simulated: unwell (2 times in a row)",
    )
    assert (await _destroy(kernels, spec)).last_lines == "simulated: started"
