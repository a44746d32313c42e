"""An agent that is gone at each step of an order, and its successor that gets the order again, on real Docker.

Buys: the command runs once, the second answer is the first one's, nothing is left.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.docker import DockerRuntime
from moorage.contracts import activities as contract
from moorage.contracts.activities import CreatedKernel, Destroy, Destroyed
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec
from tests.support.dying_agent import Death, dies_on, kernels_of

pytestmark = [pytest.mark.docker]

CREATING = [Death(step, when) for step in ("create_container", "start") for when in ("before", "after")]
DESTROYING = [
    *[Death(step, when) for step in ("kill", "remove_container") for when in ("before", "after")],
    Death("wait", "after"),
    Death("read_logs", "before"),
]


async def create(runtime: DockerRuntime, folder: Path, spec: KernelSpec) -> CreatedKernel:
    made: CreatedKernel = await ActivityEnvironment().run(kernels_of(runtime, folder).create_kernel, spec)
    return made


async def destroy(runtime: DockerRuntime, folder: Path, spec: KernelSpec) -> Destroyed:
    proof: Destroyed = await ActivityEnvironment().run(kernels_of(runtime, folder).destroy_kernel, order_for(spec))
    return proof


def order_for(spec: KernelSpec) -> Destroy:
    return Destroy(spec.session_id, spec.kernel_id, spec.attempt, 0)


def kept_log(folder: Path, spec: KernelSpec) -> str:
    found = KeptLogs(folder / "logs", cap_bytes=10_000).newest(spec.session_id, spec.kernel_id)
    return "" if found is None else "".join(line.partition(" ")[2] for line in found.read_text().splitlines())


@pytest.mark.parametrize("death", CREATING, ids=str)
async def test_a_command_runs_once_though_the_agent_is_gone(
    death: Death, docker_runtime: DockerRuntime, agent_id: str, tmp_path: Path
) -> None:
    spec = a_spec("sh", "-c", "echo ran; exit 3", agent_id=agent_id, files={"/run/key": b"hunter2"})
    assert dies_on(spec, death, agent_id=agent_id, folder=tmp_path)
    if death == Death("start", "after"):
        [alone] = await docker_runtime.containers()
        async for _ in docker_runtime.logs(alone, follow=True):
            pass  # it ended while nobody looked
    again = await create(docker_runtime, tmp_path, spec)
    [seen] = await docker_runtime.containers()
    assert seen.container_id == again.container_id
    said = b"".join([chunk async for chunk in docker_runtime.logs(seen, follow=True)])
    assert said == b"ran\n"
    proof = await destroy(docker_runtime, tmp_path, spec)
    assert (proof.existed, proof.exit and proof.exit.exit_code) == (True, 3)
    assert await docker_runtime.containers() == []
    assert list(docker_runtime.secret_files.folder.iterdir()) == []


@pytest.mark.parametrize("death", DESTROYING, ids=str)
async def test_a_container_is_proven_gone_once_though_the_agent_is(
    death: Death, docker_runtime: DockerRuntime, agent_id: str, tmp_path: Path
) -> None:
    spec = a_spec("sh", "-c", "echo ran; sleep 600", agent_id=agent_id, files={"/run/key": b"hunter2"})
    await create(docker_runtime, tmp_path, spec)
    [seen] = await docker_runtime.containers()
    async for _ in docker_runtime.logs(seen, follow=True):
        break
    assert dies_on(order_for(spec), death, agent_id=agent_id, folder=tmp_path)
    proof = await destroy(docker_runtime, tmp_path, spec)
    assert (proof.existed, proof.exit and proof.exit.exit_code) == (True, 137)
    assert (proof.log_bytes > 4, kept_log(tmp_path, spec)) == (True, "ran")
    assert await docker_runtime.containers() == []
    assert await destroy(docker_runtime, tmp_path, spec) == proof
    with pytest.raises(ApplicationError) as late:
        await create(docker_runtime, tmp_path, spec)
    assert late.value.type == contract.KERNEL_STOPPED
