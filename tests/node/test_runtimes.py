"""One set of promises, kept by the Docker runtime and the simulated one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from agent_worker.runtimes.contract import Exited, ImageMissing, Runtime
from agent_worker.runtimes.docker import DockerRuntime, environment, hardening, labels, limits
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.domain.ids import new_id
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec

IMAGE = "moorage-test-busybox:1"
MIB = 1024**2


def a_spec(agent_id: str, *command: str, mem: int = 64 * MIB, image: str = IMAGE) -> KernelSpec:
    return KernelSpec(
        new_id(), new_id(), 0, agent_id, image, list(command), {"GREETING": "hi"}, {"cpu": 500, "mem": mem}
    )


@pytest.fixture
def agent_id() -> str:
    return f"test-{new_id()[:8]}"


@pytest.fixture(params=["simulated", pytest.param("docker", marks=pytest.mark.docker)])
async def runtime(request: pytest.FixtureRequest, agent_id: str, tmp_path: Path) -> AsyncIterator[Runtime]:
    kept: Runtime = (
        DockerRuntime(agent_id) if request.param == "docker" else SimulatedRuntime(tmp_path / "containers.json")
    )
    yield kept
    for container in await kept.containers():
        await kept.remove(container)
    await kept.close()


@pytest.fixture
async def docker_runtime(agent_id: str) -> AsyncIterator[DockerRuntime]:
    kept = DockerRuntime(agent_id)
    yield kept
    for container in await kept.containers():
        await kept.remove(container)
    await kept.close()


async def only(runtime: Runtime) -> ContainerSeen:
    [container] = await runtime.containers()
    return container


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.02)


async def the_end_of(runtime: Runtime) -> tuple[int | None, bool]:
    async def ended() -> bool:
        return (await only(runtime)).state == "exited"

    await eventually(ended)
    container = await only(runtime)
    return container.exit_code, container.oom_killed


async def test_creating_twice_adopts_the_container(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id, "sleep", "600")
    first, second = await runtime.create(spec), await runtime.create(spec)
    assert first.container_id == second.container_id
    assert (await only(runtime)).kernel_id == spec.kernel_id


async def test_the_end_of_a_container_is_told(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id, "sleep", "1")

    async def first_exit() -> Exited:
        return await anext(aiter(runtime.exits()))

    told = asyncio.create_task(first_exit())
    await runtime.create(spec)
    async with asyncio.timeout(30):
        exited = await told
    assert (exited.session_id, exited.exit.kernel_id, exited.exit.exit_code) == (spec.session_id, spec.kernel_id, 0)


async def test_a_missing_image_is_told_apart(runtime: Runtime, agent_id: str) -> None:
    with pytest.raises(ImageMissing):
        await runtime.create(a_spec(agent_id, "true", image="missing/image:1"))
    assert await runtime.containers() == []


async def test_a_kill_is_proven_and_removing_twice_is_fine(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id, "sleep", "600"))
    container = await only(runtime)
    assert (await runtime.stop(container, 0)).exit_code == 137
    await runtime.remove(container)
    await runtime.remove(container)
    assert await runtime.containers() == []
    assert (await runtime.stop(container, 0)).gone


@pytest.mark.docker
async def test_containers_of_another_agent_are_not_seen(docker_runtime: DockerRuntime, agent_id: str) -> None:
    other = DockerRuntime(f"{agent_id}-other")
    await docker_runtime.create(a_spec(agent_id, "sleep", "600"))
    assert await other.containers() == []
    await other.close()


@pytest.mark.docker
async def test_a_container_has_no_privileges(docker_runtime: DockerRuntime, agent_id: str) -> None:
    await docker_runtime.create(a_spec(agent_id, "sleep", "600"))
    result = await docker_runtime.execute(await only(docker_runtime), ["cat", "/proc/self/status"], 30)
    status = dict(line.split(":", 1) for line in result.stdout.splitlines() if ":" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"


@pytest.mark.docker
async def test_a_memory_hog_is_killed_and_said_to_be(docker_runtime: DockerRuntime, agent_id: str) -> None:
    await docker_runtime.create(a_spec(agent_id, "sh", "-c", "tail /dev/zero", mem=16 * MIB))
    exit_code, oom_killed = await the_end_of(docker_runtime)
    assert oom_killed
    assert exit_code != 0


@pytest.mark.docker
async def test_exec_keeps_output_and_exit_code_apart(docker_runtime: DockerRuntime, agent_id: str) -> None:
    await docker_runtime.create(a_spec(agent_id, "sleep", "600"))
    result = await docker_runtime.execute(
        await only(docker_runtime), ["sh", "-c", "echo $GREETING; echo no >&2; exit 4"], 30
    )
    assert (result.exit_code, result.stdout, result.stderr) == (4, "hi\n", "no\n")


def test_limits_leave_no_swap() -> None:
    found = limits(a_spec("n1", "true"))
    assert found["mem_limit"] == found["memswap_limit"] == 64 * MIB
    assert found["cpu_quota"] * 2 == found["cpu_period"]
    assert found["pids_limit"] == 1024


def test_hardening_gives_nothing_away() -> None:
    found = hardening()
    assert found["cap_drop"] == ["ALL"]
    assert "no-new-privileges" in found["security_opt"]
    assert found["network_mode"] == "bridge"
    assert "binds" not in found


def test_labels_say_whose_life_it_is() -> None:
    spec = a_spec("n1", "true")
    assert set(labels(spec).values()) >= {"n1", spec.session_id, spec.kernel_id, "0"}
    assert environment(spec)["GREETING"] == "hi"
