"""What a container can't do, tried from inside a real one."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from agent_worker.disk_watch import DiskWatch
from agent_worker.runtimes.docker import DockerRuntime
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec
from tests.agent.specs import MIB, a_spec

pytestmark = pytest.mark.docker
# All that Docker gives a container without a terminal.
DEVICES = {
    "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero",
}  # fmt: skip
REFUSED = {
    "busybox mknod /tmp/disk b 8 0": "Operation not permitted",
    "busybox mount -t tmpfs none /tmp": "permission denied",
    "busybox mount -o remount,rw /sys": "permission denied",
    "busybox umount /proc/sys": "Operation not permitted",
    "busybox unshare -U true": "Operation not permitted",
    "busybox chroot /tmp true": "Operation not permitted",
    "busybox hostname other": "Operation not permitted",
    "busybox dmesg": "Operation not permitted",
    "busybox date -s 2020-01-01": "Operation not permitted",
    "busybox chown 7 /tmp": "Operation not permitted",
    "echo x > /proc/sys/kernel/core_pattern": "Read-only file system",
    "echo x > /sys/kernel/mm/ksm/run": "Read-only file system",
    "busybox mkdir /sys/fs/cgroup/memory/more || busybox mkdir /sys/fs/cgroup/more": "Read-only file system",
}
FORK_BOMB = "bomb() { bomb | bomb & }; bomb; sleep 600"
HOLDS = "sleep 600"


async def _begun(
    runtime: DockerRuntime, *command: str, agent_id: str, pids: int = 64, mem: int = 32 * MIB
) -> KernelSpec:
    spec = dataclasses.replace(a_spec(*command, agent_id=agent_id, mem=mem), pids_limit=pids)
    await runtime.create(spec)
    return spec


async def _seen(runtime: DockerRuntime, spec: KernelSpec) -> ContainerSeen:
    return next(one for one in await runtime.containers() if one.kernel_id == spec.kernel_id)


async def _says(runtime: DockerRuntime, container: ContainerSeen, script: str) -> str:
    """Both outputs of a script inside, and its exit code at the end."""
    done = await runtime.execute(container, ["sh", "-c", script], 30)
    return f"{done.stdout}{done.stderr}exit {done.exit_code}"


@pytest.fixture
async def container(docker_runtime: DockerRuntime, agent_id: str) -> ContainerSeen:
    return await _seen(docker_runtime, await _begun(docker_runtime, "sh", "-c", HOLDS, agent_id=agent_id))


async def test_its_command_and_what_is_run_in_it_have_no_privileges(
    docker_runtime: DockerRuntime, container: ContainerSeen
) -> None:
    for process in ("1", "self"):
        status = (await docker_runtime.execute(container, ["cat", f"/proc/{process}/status"], 30)).stdout
        facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(facts[capabilities], 16) == 0, f"{capabilities} of {process}"
        assert facts["NoNewPrivs"] == "1", "a setuid program gains nothing"
        assert facts["Seccomp"] == "2"


async def test_the_kernel_refuses_what_would_reach_the_node(
    docker_runtime: DockerRuntime, container: ContainerSeen
) -> None:
    for script, words in REFUSED.items():
        said = await _says(docker_runtime, container, script)
        assert words in said, f"{script}: {said}"


async def test_nothing_of_the_host_is_in_sight(docker_runtime: DockerRuntime, container: ContainerSeen) -> None:
    async def says(script: str) -> str:
        return (await docker_runtime.execute(container, ["sh", "-c", script], 30)).stdout

    assert set((await says("ls /dev")).split()) - {"core"} == DEVICES
    processes = await says("for one in /proc/[0-9]*; do busybox tr '\\0' ' ' < $one/cmdline; echo; done")
    assert len(processes.splitlines()) < 8
    assert "docker-init" in processes.splitlines()[0]
    assert await says("head -c 1 /proc/kcore 2>/dev/null | busybox wc -c") == "0\n", "the node's memory"
    assert (await says("ls /sys/firmware /proc/acpi /proc/scsi 2>/dev/null | grep -v :")).strip() == ""
    assert await says("ls /run/docker.sock /var/run/docker.sock 2>/dev/null") == ""
    groups = await says("cat /proc/1/cgroup")
    assert all(line.split(":")[2] == "/" for line in groups.splitlines()), "names of the node's control groups"
    assert "Max core file size        0                    0 " in await says("cat /proc/1/limits")


async def test_a_fork_bomb_stops_at_the_limit_and_the_neighbour_works_on(
    docker_runtime: DockerRuntime, agent_id: str, container: ContainerSeen
) -> None:
    bomb = await _begun(docker_runtime, "sh", "-c", FORK_BOMB, agent_id=agent_id, pids=48)
    seen = await _seen(docker_runtime, bomb)
    async with asyncio.timeout(60):
        log = docker_runtime.logs(seen, follow=True)
        async for line in log:
            if b"can't fork" in line:
                break
        readings = await docker_runtime.measure([seen, container])
    assert 0 < (readings.containers[seen.container_id].pids or 0) <= 48
    assert await _says(docker_runtime, container, "echo works") == "works\nexit 0"
    assert (await docker_runtime.stop(seen, 0)).exit_code == 137


async def test_a_memory_hog_dies_alone(docker_runtime: DockerRuntime, agent_id: str, container: ContainerSeen) -> None:
    events = docker_runtime.exits()
    waiting = asyncio.ensure_future(anext(events))
    hog = await _begun(docker_runtime, "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", agent_id=agent_id, mem=16 * MIB)
    async with asyncio.timeout(30):
        exited = await waiting
    assert (exited.exit.kernel_id, exited.exit.exit_code, exited.exit.oom_killed) == (hog.kernel_id, 137, True)
    states = {one.kernel_id: one.state for one in await docker_runtime.containers()}
    assert states == {hog.kernel_id: "exited", container.kernel_id: "running"}


async def test_files_in_memory_count_as_memory(docker_runtime: DockerRuntime, container: ContainerSeen) -> None:
    """/dev and /dev/shm are no way around the limit: each holds 64 MiB at most, within the container's memory."""
    assert "exit 137" in await _says(docker_runtime, container, "exec dd if=/dev/zero of=/dev/shm/x bs=1M count=60")


async def test_a_disk_filler_is_killed_with_the_numbers(
    docker_runtime: DockerRuntime, agent_id: str, container: ContainerSeen
) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M count=20 2>/dev/null; echo full; sleep 600"
    filler = await _seen(docker_runtime, await _begun(docker_runtime, "sh", "-c", script, agent_id=agent_id))
    async with asyncio.timeout(30):
        async for line in docker_runtime.logs(filler, follow=True):
            if b"full" in line:
                break
    events = docker_runtime.exits()
    waiting = asyncio.ensure_future(anext(events))
    watch = DiskWatch(docker_runtime, 8 * MIB)
    await watch.look()
    async with asyncio.timeout(30):
        exit = watch.explained((await waiting).exit)
    assert exit.kernel_id == filler.kernel_id
    assert exit.over_disk == "it wrote 20 MiB to its disk, more than the 8 MiB that its node allows"
    states = {one.kernel_id: one.state for one in await docker_runtime.containers()}
    assert states == {filler.kernel_id: "exited", container.kernel_id: "running"}
