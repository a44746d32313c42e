"""Both runtimes, and an image of one static binary made on the spot: no registry is asked."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import APIError, ImageNotFound
from docker.utils import kwargs_from_env

from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.contract import Runtime
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.names import LABEL_AGENT, node_label
from moorage.domain.ids import new_id
from tests.agent.specs import IMAGE
from tests.support.leaks import remove_networks

_COMMANDS = [
    "sh",
    "sleep",
    "echo",
    "tail",
    "true",
    "false",
    "cat",
    "head",
    "dd",
    "ls",
    "grep",
    "seq",
    "yes",
    "id",
    "env",
]


def _root_of_busybox() -> bytes:
    binary = shutil.which("busybox")
    if binary is None:
        pytest.fail("the test image is made of a static busybox, and there is none: make image")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder in ("bin", "tmp", "proc", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(Path(binary).resolve(), "bin/busybox")
        for command in _COMMANDS:
            entry = tarfile.TarInfo(f"bin/{command}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return archive.getvalue()


@pytest.fixture(scope="session")
def engine_client() -> Iterator[docker.APIClient]:
    """A client of Docker, which has the test image."""
    client = docker.APIClient(version="auto", **kwargs_from_env())
    try:
        client.inspect_image(IMAGE)
    except ImageNotFound:
        repository, tag = IMAGE.split(":")
        client.import_image_from_data(_root_of_busybox(), repository=repository, tag=tag)
    yield client
    client.close()


@pytest.fixture
def agent_id() -> str:
    return f"test-{new_id()[:8]}"


@pytest.fixture
async def docker_runtime(engine_client: docker.APIClient, agent_id: str) -> AsyncIterator[DockerRuntime]:
    """A runtime that sees only this test's containers; none of them is left."""
    runtime = DockerRuntime(agent_id)
    yield runtime
    await runtime.close()
    for left in engine_client.containers(
        all=True, filters={"label": f"{LABEL_AGENT}={node_label('moorage', agent_id)}"}
    ):
        with suppress(APIError):
            engine_client.remove_container(left["Id"], force=True, v=True)
    remove_networks(engine_client, agent_id)
    shutil.rmtree(runtime.secret_files.folder, ignore_errors=True)


@pytest.fixture
async def simulated_runtime(tmp_path: Path) -> AsyncIterator[SimulatedRuntime]:
    runtime = SimulatedRuntime(tmp_path / "simulated-containers.json")
    yield runtime
    await runtime.close()


@pytest.fixture(params=["simulated", pytest.param("docker", marks=pytest.mark.docker)])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    found: Runtime = request.getfixturevalue(f"{request.param}_runtime")
    return found


@pytest.fixture
def committed(request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for an image; what has it is removed."""
    name = f"committed.local/test:{new_id()}"
    yield name
    if "docker_runtime" in request.fixturenames or "docker" in request.node.name:
        with suppress(APIError):
            request.getfixturevalue("engine_client").remove_image(name, force=True)


@pytest.fixture
def kept_logs(tmp_path: Path) -> KeptLogs:
    return KeptLogs(tmp_path / "logs", cap_bytes=1000)
