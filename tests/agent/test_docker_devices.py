"""Reservations in Docker's words."""

from __future__ import annotations

import docker
import pytest

from agent_worker.runtimes.contract import CreateRefused
from agent_worker.runtimes.devices import devices
from agent_worker.runtimes.docker import DockerRuntime
from moorage.contracts.accelerators import EngineRequest, Mount, Reservation, together
from tests.agent.specs import a_spec


def test_nothing_reserved_is_nothing_said() -> None:
    assert devices(Reservation()) == {}


def test_gpus_are_requested_by_uuid_of_nvidias_driver() -> None:
    [request] = devices(Reservation(requests=[EngineRequest("nvidia", ["GPU-1"], ["gpu", "compute"])]))[
        "device_requests"
    ]
    assert request == {
        "Driver": "nvidia", "Count": 0, "DeviceIDs": ["GPU-1"], "Capabilities": [["gpu", "compute"]], "Options": {},
    }  # fmt: skip


def test_cdi_names_are_requested_of_cdi() -> None:
    [request] = devices(Reservation(requests=[EngineRequest("cdi", ["nvidia.com/gpu=GPU-1"])]))["device_requests"]
    assert (request["Driver"], request["DeviceIDs"], request["Capabilities"]) == ("cdi", ["nvidia.com/gpu=GPU-1"], [])


def test_nodes_can_be_read_and_written_and_mounts_are_read_only_unless_they_must_not() -> None:
    reserved = Reservation(
        mounts=[Mount("/opt/lib", "/usr/lib/x"), Mount("/run/x", "/run/x", writable=True)], nodes=["/dev/kfd"]
    )
    assert devices(reserved) == {
        "devices": ["/dev/kfd:/dev/kfd:rw"],
        "binds": ["/opt/lib:/usr/lib/x:ro", "/run/x:/run/x:rw"],
    }


def test_reservations_add_up() -> None:
    whole = together(
        [Reservation({"A": "1"}, nodes=["/dev/a"]), Reservation({"B": "2"}, nodes=["/dev/b"]), Reservation()]
    )
    assert (whole.environment, whole.nodes) == ({"A": "1", "B": "2"}, ["/dev/a", "/dev/b"])


@pytest.mark.docker
async def test_a_real_container_has_what_was_reserved(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    spec = a_spec(agent_id=agent_id, NVIDIA_VISIBLE_DEVICES="all")
    reserved = Reservation({"NVIDIA_VISIBLE_DEVICES": "void"}, nodes=["/dev/full"])
    made = engine_client.inspect_container((await docker_runtime.create(spec, reserved)).container_id)
    assert "NVIDIA_VISIBLE_DEVICES=void" in made["Config"]["Env"], "the user's own words don't win here"
    assert [(one["PathOnHost"], one["CgroupPermissions"]) for one in made["HostConfig"]["Devices"]] == [
        ("/dev/full", "rw")
    ]
    [seen] = await docker_runtime.containers()
    assert (await docker_runtime.execute(seen, ["ls", "/dev/full"], 10)).exit_code == 0


@pytest.mark.docker
async def test_a_request_that_docker_cannot_meet_leaves_no_container(
    docker_runtime: DockerRuntime, agent_id: str
) -> None:
    reserved = Reservation(requests=[EngineRequest("no-such-driver", ["GPU-1"])])
    with pytest.raises(CreateRefused, match="no-such-driver"):
        await docker_runtime.create(a_spec(agent_id=agent_id), reserved)
    assert await docker_runtime.containers() == []
