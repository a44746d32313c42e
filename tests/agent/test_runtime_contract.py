"""What both runtimes promise."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_worker.idle_label import read_label
from agent_worker.metrics.reading import Reading
from agent_worker.runtimes.contract import Exited, ImageMissing, PullFailed, Runtime
from moorage.contracts.names import LABEL_IDLE
from moorage.domain.health import HealthCheck, Probe
from moorage.domain.idle import IdlePolicy
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec
from tests.agent.specs import MIB, a_spec


async def _exit_of(runtime: Runtime, spec: KernelSpec, *, watched: AsyncIterator[Exited] | None = None) -> Exited:
    async with asyncio.timeout(20):
        async for exited in watched or runtime.exits():
            if exited.exit.kernel_id == spec.kernel_id:
                return exited
    raise AssertionError("the stream of exits ended")


async def test_a_created_container_runs_under_its_session_kernel_and_attempt(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id, attempt=2)
    started = await runtime.create(spec)
    [seen] = await runtime.containers()
    assert (seen.session_id, seen.kernel_id, seen.attempt) == (spec.session_id, spec.kernel_id, 2)
    assert (seen.container_id, seen.state, seen.exit_code) == (started.container_id, "running", None)


async def test_creating_the_same_attempt_again_adopts_its_container(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id)
    first = await runtime.create(spec)
    assert (await runtime.create(spec)).container_id == first.container_id
    assert len(await runtime.containers()) == 1


async def test_what_a_container_holds_on_its_disk_is_known_while_it_runs(runtime: Runtime, agent_id: str) -> None:
    command = ("sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=3; sleep 600")
    spec = a_spec(*command, agent_id=agent_id, MOORAGE_SIM_DISK=str(3 * MIB))
    await runtime.create(spec)
    async with asyncio.timeout(30):
        while [written for _, written in await runtime.written()] != [3 * MIB]:
            await asyncio.sleep(0)
    [(seen, _)] = await runtime.written()
    assert seen.kernel_id == spec.kernel_id
    await runtime.stop(seen, 0)
    assert await runtime.written() == []


async def test_an_image_that_the_node_lacks_is_missing(runtime: Runtime, agent_id: str) -> None:
    with pytest.raises(ImageMissing, match="missing/image"):
        await runtime.create(a_spec(agent_id=agent_id, image="missing/image:1"))
    assert await runtime.containers() == []


async def test_an_image_that_cannot_be_had_fails_to_be_pulled(runtime: Runtime) -> None:
    # A port of this machine on which nothing listens, so that no registry is asked.
    image = "missing/image:1" if type(runtime).__name__ == "SimulatedRuntime" else "127.0.0.1:1/missing/image:1"
    with pytest.raises(PullFailed):
        await runtime.pull(image, lambda line: None)


async def test_a_container_that_ends_by_itself_is_told_once_with_its_exit_code(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(
        "sh", "-c", "sleep 0.5; exit 3", agent_id=agent_id, MOORAGE_SIM_RUN_S="0.5", MOORAGE_SIM_EXIT_CODE="3"
    )
    waiting = asyncio.create_task(_exit_of(runtime, spec))
    await runtime.create(spec)
    exited = await waiting
    assert exited.session_id == spec.session_id
    assert (exited.exit.attempt, exited.exit.exit_code, exited.exit.oom_killed) == (0, 3, False)
    [seen] = await runtime.containers()
    assert (seen.state, seen.exit_code) == ("exited", 3)


async def test_stopping_without_grace_kills(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id, MOORAGE_SIM_IGNORE_STOP="1"))
    [seen] = await runtime.containers()
    assert (await runtime.stop(seen, 0)).exit_code == 137


async def test_a_kill_does_not_wait_for_the_grace_period_of_an_earlier_stop(runtime: Runtime, agent_id: str) -> None:
    stubborn = ("sh", "-c", "trap '' TERM; echo deaf; while true; do sleep 1; done")
    await runtime.create(a_spec(*stubborn, agent_id=agent_id, MOORAGE_SIM_IGNORE_STOP="1"))
    [seen] = await runtime.containers()
    async for _ in runtime.logs(seen, follow=False):
        break
    polite = asyncio.create_task(runtime.stop(seen, 2))
    async with asyncio.timeout(1.5):
        assert (await runtime.stop(seen, 0)).exit_code == 137
    await runtime.remove(seen)
    await polite
    assert await runtime.containers() == []


async def test_removing_twice_is_the_same_as_once(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    [seen] = await runtime.containers()
    await asyncio.gather(runtime.remove(seen), runtime.remove(seen))
    assert await runtime.containers() == []
    await runtime.remove(seen)


async def test_stopping_what_is_gone_says_so(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    [seen] = await runtime.containers()
    await runtime.remove(seen)
    assert (await runtime.stop(seen, 5)).gone


async def test_only_requeue_sessions_that_run_are_to_be_fenced(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    requeued = a_spec(agent_id=agent_id, on_node_loss="requeue")
    await runtime.create(requeued)
    [fenced] = await runtime.requeued_elsewhere()
    assert fenced.kernel_id == requeued.kernel_id
    await runtime.stop(fenced, 0)
    assert await runtime.requeued_elsewhere() == []


async def test_logs_of_what_is_gone_are_empty(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    [seen] = await runtime.containers()
    await runtime.remove(seen)
    assert [chunk async for chunk in runtime.logs(seen, follow=True)] == []


async def test_capacity_counts_millicores_and_bytes(runtime: Runtime) -> None:
    capacity = await runtime.capacity()
    assert capacity["cpu"] >= 1000
    assert capacity["mem"] > 64 * 1024**2


async def test_a_container_finds_its_files_and_only_its_own(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id, files={"/run/secrets/key": b"hunter2", "/opt/app.pem": b"-----"}))
    [seen] = await runtime.containers()
    assert (await runtime.execute(seen, ["cat", "/run/secrets/key"], 10)).stdout == "hunter2"
    assert (await runtime.execute(seen, ["cat", "/opt/app.pem"], 10)).stdout == "-----"
    await runtime.create(a_spec(agent_id=agent_id))
    [other] = [one for one in await runtime.containers() if one.kernel_id != seen.kernel_id]
    assert "hunter2" not in (await runtime.execute(other, ["cat", "/run/secrets/key"], 10)).stdout


async def test_creating_the_same_attempt_again_leaves_its_files(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id, files={"/run/secrets/key": b"hunter2"})
    await runtime.create(spec)
    await runtime.create(spec)
    [seen] = await runtime.containers()
    assert (await runtime.execute(seen, ["cat", "/run/secrets/key"], 10)).stdout == "hunter2"


async def test_what_it_was_given_is_saved_nowhere_beside_the_container(
    runtime: Runtime, agent_id: str, tmp_path: Path
) -> None:
    await runtime.create(a_spec(agent_id=agent_id, files={"/run/secrets/key": b"hunter2"}, TOKEN="hunter3"))
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter" not in kept
    assert base64.b64encode(b"hunter2") not in kept


async def test_a_busy_container_has_used_processor_time_and_more_of_it_later(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec("sh", "-c", "while :; do :; done", agent_id=agent_id))
    seen = await runtime.containers()
    first = (await _measured_beyond(runtime, seen, 0)).cpu_us or 0
    later = await _measured_beyond(runtime, seen, first)
    assert (later.cpu_limit, later.mem_limit) == (500, 32 * MIB)
    assert later.age_s is not None
    assert later.age_s > 0
    assert later.mem is not None
    assert 0 < later.mem <= 32 * MIB
    assert later.mem_peak is not None
    assert later.pids is not None
    assert None not in (later.io_read, later.io_write, later.net_rx, later.net_tx)


async def _measured_beyond(runtime: Runtime, seen: list[ContainerSeen], cpu_us: int) -> Reading:
    """As soon as it has used more than that."""
    async with asyncio.timeout(20):
        while True:
            reading = (await runtime.measure(seen)).containers[seen[0].container_id]
            if (reading.cpu_us or 0) > cpu_us:
                return reading
            await asyncio.sleep(0.05)


async def test_the_node_is_measured_with_or_without_containers(runtime: Runtime) -> None:
    node = (await runtime.measure([])).node
    assert node.cpu_us is not None
    assert node.cpu_limit
    assert node.mem_limit
    assert node.mem is not None


async def test_a_container_that_died_since_it_was_listed_is_left_out(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    seen = await runtime.containers()
    assert set((await runtime.measure(seen)).containers) == {seen[0].container_id}
    await runtime.stop(seen[0], 0)
    assert (await runtime.measure(seen)).containers == {}
    await runtime.remove(seen[0])
    assert (await runtime.measure(seen)).containers == {}


async def test_a_container_is_seen_with_the_devices_that_it_holds(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(replace(a_spec(agent_id=agent_id), devices={"gpu-b": 1, "gpu-a": 1}))
    [seen] = await runtime.containers()
    assert seen.devices == ["gpu-a", "gpu-b"]


async def test_a_port_connects_while_something_listens_there_if_only_at_the_loopback_address(
    runtime: Runtime, agent_id: str
) -> None:
    listens = ("busybox", "httpd", "-f", "-p", "127.0.0.1:8080")
    await runtime.create(a_spec(*listens, agent_id=agent_id))
    [seen] = await runtime.containers()
    async with asyncio.timeout(20):
        while not await runtime.connects(seen, 8080, 2):
            await asyncio.sleep(0.05)
    await runtime.stop(seen, 0)
    assert not await runtime.connects(seen, 8080, 2)
    await runtime.remove(seen)
    assert not await runtime.connects(seen, 8080, 2)


async def test_a_port_where_nothing_listens_does_not_connect(runtime: Runtime, agent_id: str) -> None:
    await runtime.create(a_spec(agent_id=agent_id, MOORAGE_SIM_UNHEALTHY_AFTER_S="0"))
    [seen] = await runtime.containers()
    assert not await runtime.connects(seen, 8080, 2)


async def test_how_a_container_is_checked_is_known_as_long_as_it_runs(runtime: Runtime, agent_id: str) -> None:
    check = HealthCheck(Probe(["sh", "-c", "test -f /tmp/ready"], every_s=2), Probe(port=8080), 30)
    spec = replace(a_spec(agent_id=agent_id), health=check)
    await runtime.create(spec)
    await runtime.create(a_spec(agent_id=agent_id))
    [found] = await runtime.checked()
    assert (found.container.kernel_id, found.container.state, found.check) == (spec.kernel_id, "running", check)
    assert 0 <= found.age_s < 60
    await runtime.stop(found.container, 0)
    assert await runtime.checked() == []


async def test_what_a_container_was_given_is_known_and_nothing_that_all_have(runtime: Runtime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id, files={"/run/secrets/key": b"hunter2"}, TOKEN="hunter3")
    await runtime.create(spec)
    [seen] = await runtime.containers()
    assert await runtime.given(seen) == {"hunter2", "hunter3"}
    await runtime.remove(seen)
    assert await runtime.given(seen) == set()


async def test_what_a_container_was_made_with_is_read_from_its_label(runtime: Runtime, agent_id: str) -> None:
    policy = IdlePolicy(3600.0, cpu_percent=5.0, net_bps=100.0, dry_run=True)
    spec = replace(a_spec(agent_id=agent_id), idle=policy)
    await runtime.create(spec)
    await runtime.create(a_spec(agent_id=agent_id))
    [(seen, label)] = await runtime.labelled(LABEL_IDLE)
    assert (seen.kernel_id, read_label(label)) == (spec.kernel_id, (policy, "a-test"))
    await runtime.stop(seen, 0)
    assert await runtime.labelled(LABEL_IDLE) == [], "it runs no more"


async def test_a_file_that_is_written_is_read_by_its_session_until_it_is_emptied(
    runtime: Runtime, agent_id: str
) -> None:
    await runtime.create(a_spec(agent_id=agent_id))
    [seen] = await runtime.containers()
    path = "/run/moorage/idle-warning"
    await runtime.write_file(seen, path, "")
    assert "No such file" in str(await runtime.execute(seen, ["cat", path], 10)) or "simulated:" in str(
        await runtime.execute(seen, ["cat", path], 10)
    ), "nothing is made only to be empty"
    await runtime.write_file(seen, path, "stopped at 14:05 …\n")
    assert (await runtime.execute(seen, ["cat", path], 10)).stdout == "stopped at 14:05 …\n"
    await runtime.write_file(seen, path, "")
    assert (await runtime.execute(seen, ["cat", path], 10)).stdout == ""
