"""What Docker is told, and what then holds inside a real container."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal

import docker
import pytest
from docker.errors import ImageNotFound

from agent_worker.runtimes import reach
from agent_worker.runtimes.container import container_name, environment, hardening, labels
from agent_worker.runtimes.contract import OUTPUT_CAP, CreateRefused, Exited, GoesOn
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.docker_images import _repository_and_tag as repository_and_tag
from agent_worker.runtimes.limits import limits
from agent_worker.runtimes.networks import Joined, network
from moorage.contracts.names import LABEL_AGENT, node_label
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec
from tests.agent.specs import IMAGE, MIB, a_spec


def test_millicores_become_a_quota_and_swap_is_off() -> None:
    assert limits(a_spec(mem=64 * MIB)) == {
        "pids_limit": 1024,
        "cpu_period": 100_000,
        "cpu_quota": 50_000,
        "mem_limit": 64 * MIB,
        "memswap_limit": 64 * MIB,
    }


def test_slots_that_were_not_asked_for_are_not_limited() -> None:
    assert limits(dataclasses.replace(a_spec(), slots={})) == {"pids_limit": 1024}


def test_no_container_gets_capabilities_new_privileges_or_the_hosts_network() -> None:
    told = hardening()
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges"]
    assert "privileged" not in told
    assert network(a_spec(), None, Joined("lab")) == ({"hostname": "main1"}, {"network_mode": "lab"})
    assert network(a_spec(), "c1", Joined("lab")) == ({}, {"network_mode": "container:c1"})


def test_labels_say_whose_the_container_is() -> None:
    spec = a_spec(agent_id="n7", attempt=3, on_node_loss="requeue")
    assert labels(spec, "lab/n7") == {
        "moorage.agent": "lab/n7",
        "moorage.session": spec.session_id,
        "moorage.kernel": spec.kernel_id,
        "moorage.attempt": "3",
        "moorage.on-node-loss": "requeue",
    }
    assert container_name(spec.kernel_id, 3) == f"moorage-{spec.kernel_id}-3"


def test_the_users_variables_win() -> None:
    told = environment(a_spec(LANG="C", BACKENDAI_SESSION_NAME="mine"))
    assert (told["LANG"], told["BACKENDAI_SESSION_NAME"]) == ("C", "mine")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("python", ("python", "latest")),
        ("python:3.11", ("python", "3.11")),
        ("host:5000/python", ("host:5000/python", "latest")),
        ("host:5000/python:3", ("host:5000/python", "3")),
        ("python@sha256:ab", ("python@sha256:ab", None)),
    ],
)
def test_an_image_without_a_tag_means_latest(image: str, expected: tuple[str, str | None]) -> None:
    assert repository_and_tag(image) == expected


async def _output(runtime: DockerRuntime, spec: KernelSpec, *, tail: int | None = None) -> str:
    await runtime.create(spec)
    async with asyncio.timeout(30):
        seen = await _seen(runtime, spec)
        chunks = [chunk async for chunk in runtime.logs(seen, follow=True)]
        if tail is not None:
            chunks = [chunk async for chunk in runtime.logs(seen, follow=False, tail=tail)]
        return b"".join(chunks).decode()


async def _seen(runtime: DockerRuntime, spec: KernelSpec) -> ContainerSeen:
    return next(one for one in await runtime.containers() if one.kernel_id == spec.kernel_id)


@pytest.mark.docker
async def test_a_memory_hog_is_told_as_killed_for_memory(docker_runtime: DockerRuntime, agent_id: str) -> None:
    spec = a_spec("dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1", agent_id=agent_id, mem=16 * MIB)
    events = docker_runtime.exits()
    waiting = asyncio.ensure_future(anext(events))
    await docker_runtime.create(spec)
    async with asyncio.timeout(20):
        exited = await waiting
    assert exited.exit.oom_killed
    assert exited.exit.exit_code == 137


@pytest.mark.docker
async def test_only_the_last_lines_are_read(docker_runtime: DockerRuntime, agent_id: str) -> None:
    assert await _output(docker_runtime, a_spec("seq", "1", "100", agent_id=agent_id), tail=2) == "99\n100\n"


@pytest.mark.docker
async def test_a_command_inside_answers_with_both_outputs(docker_runtime: DockerRuntime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id)
    await docker_runtime.create(spec)
    command = ["sh", "-c", "echo out; echo err >&2; exit 4"]
    result = await docker_runtime.execute(await _seen(docker_runtime, spec), command, 20)
    assert (result.exit_code, result.stdout, result.stderr) == (4, "out\n", "err\n")


@pytest.mark.docker
async def test_the_output_of_a_command_is_capped(docker_runtime: DockerRuntime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id)
    await docker_runtime.create(spec)
    result = await docker_runtime.execute(await _seen(docker_runtime, spec), ["head", "-c", "3000000", "/dev/zero"], 20)
    assert len(result.stdout) == OUTPUT_CAP


@pytest.mark.docker
async def test_commands_that_hang_do_not_hold_up_the_runtime(docker_runtime: DockerRuntime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id)
    await docker_runtime.create(spec)
    seen = await _seen(docker_runtime, spec)
    hung = [docker_runtime.execute(seen, ["sleep", "100"], 1.0) for _ in range(20)]
    assert all(isinstance(one, TimeoutError) for one in await asyncio.gather(*hung, return_exceptions=True))
    async with asyncio.timeout(10):
        assert (await docker_runtime.execute(seen, ["true"], 5)).exit_code == 0


@pytest.mark.docker
async def test_commands_that_hang_are_ended_with_all_that_they_started(
    docker_runtime: DockerRuntime, agent_id: str
) -> None:
    await docker_runtime.create(spec := a_spec(agent_id=agent_id))
    seen = await _seen(docker_runtime, spec)
    for _ in range(2):
        with pytest.raises(TimeoutError) as late:
            await docker_runtime.execute(seen, ["sh", "-c", "sleep 1234 & sleep 1234; true"], 0.5)
        assert not isinstance(late.value, GoesOn)
    listed = await docker_runtime.execute(seen, ["busybox", "ps", "-o", "args"], 10)
    assert "sleep infinity" in listed.stdout
    assert "1234" not in listed.stdout


@pytest.mark.docker
async def test_a_command_that_cannot_be_ended_is_told_as_going_on(
    docker_runtime: DockerRuntime, agent_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "_is_within", lambda pid, first: False)  # as an agent without the right
    await docker_runtime.create(spec := a_spec(agent_id=agent_id))
    with pytest.raises(GoesOn) as late:
        await docker_runtime.execute(await _seen(docker_runtime, spec), ["sleep", "3"], 0.5)
    assert await late.value.runs()
    async with asyncio.timeout(20):
        while await late.value.runs():
            await asyncio.sleep(0.05)


@pytest.mark.docker
async def test_no_process_is_killed_that_is_not_the_containers(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    started = await docker_runtime.create(a_spec(agent_id=agent_id))
    first = engine_client.inspect_container(started.container_id)["State"]["Pid"]
    stranger = await asyncio.create_subprocess_exec("sleep", "100", start_new_session=True)
    for pid in (stranger.pid, 2**22 + 1):  # there is no such
        assert not await reach.end(pid, first, 0.1)
        assert not reach.send_signal(pid, first, signal.SIGKILL)
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()
    assert stranger.returncode == -9


@pytest.mark.docker
async def test_what_docker_refuses_leaves_no_container(docker_runtime: DockerRuntime, agent_id: str) -> None:
    with pytest.raises(CreateRefused):
        await docker_runtime.create(dataclasses.replace(a_spec(agent_id=agent_id), hostname="n" * 200))
    assert await docker_runtime.containers() == []


@pytest.mark.docker
async def test_a_container_made_but_never_started_is_adopted_and_started(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    spec = a_spec(agent_id=agent_id)
    name = container_name(spec.kernel_id, spec.attempt)
    made = engine_client.create_container(
        spec.image, command=spec.command, labels=labels(spec, node_label("moorage", agent_id)), name=name
    )
    started = await docker_runtime.create(spec)
    assert started.container_id == made["Id"]
    assert (await _seen(docker_runtime, spec)).state == "running"


@pytest.mark.docker
async def test_a_container_with_only_some_of_our_labels_is_neither_seen_nor_told(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    by_hand = engine_client.create_container(
        IMAGE, command=["true"], labels={LABEL_AGENT: node_label("moorage", agent_id)}
    )["Id"]
    first = asyncio.create_task(_first_exit(docker_runtime))
    spec = a_spec("sh", "-c", "exit 7", agent_id=agent_id)
    engine_client.start(by_hand)
    engine_client.wait(by_hand)
    assert await docker_runtime.containers() == []
    await docker_runtime.create(spec)
    assert (await first).exit.kernel_id == spec.kernel_id


async def _first_exit(runtime: DockerRuntime) -> Exited:
    async with asyncio.timeout(20):
        async for exited in runtime.exits():
            return exited
    raise AssertionError("the stream of exits ended")


@pytest.mark.docker
async def test_a_node_of_the_same_name_in_another_cluster_is_left_alone(
    docker_runtime: DockerRuntime, agent_id: str
) -> None:
    other = DockerRuntime(agent_id, cluster="other")
    await docker_runtime.create(a_spec(agent_id=agent_id))
    assert await other.containers() == []
    await other.close()


@pytest.mark.docker
async def test_a_container_with_labels_in_other_words_does_not_stop_the_reports(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    spec = a_spec(agent_id=agent_id)
    odd = {**labels(spec, node_label("moorage", agent_id)), "moorage.attempt": "first", "moorage.kernel": "mine"}
    engine_client.create_container(IMAGE, command=["true"], labels=odd)
    await docker_runtime.create(spec)
    assert [one.kernel_id for one in await docker_runtime.containers()] == [spec.kernel_id]


@pytest.mark.docker
async def test_resizing_leaves_the_first_process_alone(
    docker_runtime: DockerRuntime, agent_id: str, engine_client: docker.APIClient
) -> None:
    await docker_runtime.create(a_spec(agent_id=agent_id))
    [seen] = await docker_runtime.containers()
    before = engine_client.inspect_container(seen.container_id)
    await docker_runtime.update(seen, {"cpu": 1500, "mem": 64 * MIB})
    now = engine_client.inspect_container(seen.container_id)
    assert (now["State"]["Pid"], now["State"]["StartedAt"]) == (before["State"]["Pid"], before["State"]["StartedAt"])
    told = now["HostConfig"]
    assert (told["CpuQuota"], told["Memory"], told["MemorySwap"]) == (150_000, 64 * MIB, 64 * MIB)
    assert (told["PidsLimit"], told["CapDrop"]) == (1024, ["ALL"])


@pytest.mark.docker
async def test_an_image_has_what_was_written_and_nothing_that_the_container_was_given(
    docker_runtime: DockerRuntime, agent_id: str, engine_client: docker.APIClient, committed: str
) -> None:
    spec = dataclasses.replace(
        a_spec(
            *("sh", "-c", "echo kept > /tmp/x; echo there; sleep 1000"),
            agent_id=agent_id,
            files={"/run/secrets/key": b"hunter2"},
            TOKEN="hunter3",
        ),
        user="ada",
    )
    await docker_runtime.create(spec)
    [seen] = await docker_runtime.containers()
    async for _ in docker_runtime.logs(seen, follow=True):
        break
    before = {one["Id"] for one in engine_client.images(all=True)}
    made = await docker_runtime.commit(seen, committed)
    image = engine_client.inspect_image(committed)
    told = json.dumps([image, engine_client.history(committed)])
    assert not [word for word in ("hunter", "TOKEN", spec.session_id, "moorage.agent") if word in told]
    assert image["Config"]["Labels"] == {"moorage.committed-by": "ada"}
    assert (image["Config"]["Env"], image["Config"]["Cmd"]) == (["PATH=/bin"], ["/bin/sh"])
    assert {one["Id"] for one in engine_client.images(all=True)} - before == {made.image_id}, "nothing else is left"
    await docker_runtime.create(a_spec("sh", "-c", "cat /tmp/x /run/secrets/key", agent_id=agent_id, image=committed))
    [second] = [one for one in await docker_runtime.containers() if one.kernel_id != seen.kernel_id]
    assert [chunk async for chunk in docker_runtime.logs(second, follow=True)] == [b"kept\n"]


@pytest.mark.docker
async def test_what_an_agent_that_died_in_a_commit_left_is_removed(
    docker_runtime: DockerRuntime, agent_id: str, engine_client: docker.APIClient, committed: str
) -> None:
    await docker_runtime.create(a_spec(agent_id=agent_id, TOKEN="hunter3"))
    [seen] = await docker_runtime.containers()
    left = engine_client.commit(seen.container_id)["Id"]
    await docker_runtime.commit(seen, committed)
    with pytest.raises(ImageNotFound):
        engine_client.inspect_image(left)
