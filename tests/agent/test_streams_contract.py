"""What both runtimes promise of commands, files and ports."""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from agent_worker.runtimes.contract import CreateRefused, FileRefused, PortClosed, Runtime
from agent_worker.runtimes.process import STDOUT, Order, Process, Window
from moorage.domain.node import ContainerSeen
from tests.agent.specs import a_spec


async def _started(runtime: Runtime, agent_id: str, *command: str) -> ContainerSeen:
    await runtime.create(a_spec(*command, agent_id=agent_id))
    [seen] = await runtime.containers()
    return seen


async def _said(process: Process, until: bytes = b"\0") -> bytes:
    said = b""
    async with asyncio.timeout(20):
        while until not in said and (found := await process.read()) is not None:
            assert found[0] == STDOUT
            said += found[1]
    return said


async def test_a_command_gets_its_input_until_that_ends(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    async with await runtime.attach(container, Order(["cat"])) as process:
        await process.write(b"one ")
        await process.write(b"two")
        await process.end_input()
        assert await _said(process) == b"one two"
        assert await process.exit_code() == 0


async def test_a_terminal_has_the_size_that_it_was_given_and_every_later_one(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    ask = b"stty size\n" if type(runtime).__name__ == "SimulatedRuntime" else b"busybox stty size\n"
    async with await runtime.attach(container, Order(["sh"], Window(33, 101))) as process:
        await process.write(ask)
        assert b"33 101" in await _said(process, b"33 101")
        await process.resize(Window(20, 60))
        await process.write(ask)
        assert b"20 60" in await _said(process, b"20 60")
        await process.write(b"exit 7\n")
        await _said(process)
        assert await process.exit_code() == 7


async def test_a_command_can_be_sent_a_signal(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    async with await runtime.attach(container, Order(["sleep", "60"])) as process:
        assert await process.signal("TERM")
        await _said(process)
        assert await process.exit_code() == 143


async def test_a_command_that_took_too_long_is_given_up(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    with pytest.raises(TimeoutError):
        await runtime.execute(container, ["sleep", "60"], 0.3)
    if type(runtime).__name__ == "DockerRuntime":
        found = await runtime.execute(container, ["sh", "-c", "cat /proc/[0-9]*/cmdline"], 20)
        assert "sleep\x0060" not in found.stdout


@pytest.mark.docker
async def test_a_command_that_is_not_there_is_refused(docker_runtime: Runtime, agent_id: str) -> None:
    container = await _started(docker_runtime, agent_id)
    with pytest.raises(CreateRefused, match="nosuch"):
        async with await docker_runtime.attach(container, Order(["nosuch"], Window())) as process:
            said = await _said(process)
            raise CreateRefused(said.decode())


async def _pieces(archive: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(archive), 1000):
        yield archive[at : at + 1000]


def _tar(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.uid = len(content), 4711
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


async def test_files_come_back_as_they_were_sent(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    await runtime.upload(container, "/tmp", _pieces(_tar(a=b"hello", b=bytes(3000))))
    found = await runtime.find_file(container, "/tmp/a")
    assert (found.name, found.size, found.is_folder) == ("a", 5, False)
    assert (await runtime.execute(container, ["cat", "/tmp/a"], 20)).stdout == "hello"
    packed = b"".join([piece async for piece in runtime.download(container, "/tmp")])
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert {"tmp", "tmp/a", "tmp/b"} <= {one.name.rstrip("/") for one in tar.getmembers()}
        content = tar.extractfile("tmp/b")
        assert content is not None
        assert content.read() == bytes(3000)


async def test_what_may_not_pass_is_not_written(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id)
    with pytest.raises(FileRefused, match="no name within"):
        await runtime.upload(container, "/tmp", _pieces(_tar(**{"../escaped": b"x"})))
    with pytest.raises(FileRefused) as missing:
        await runtime.find_file(container, "/escaped")
    assert missing.value.missing
    with pytest.raises(FileRefused):
        await runtime.upload(container, "/nowhere", _pieces(_tar(a=b"x")))


async def test_a_port_is_reached_and_a_closed_one_told(runtime: Runtime, agent_id: str) -> None:
    container = await _started(runtime, agent_id, "busybox", "nc", "-l", "-p", "7000", "-e", "cat")
    with pytest.raises(PortClosed, match="port 81"):
        await runtime.connect(container, 81)
    reader, writer = await _connected(runtime, container)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()


async def _connected(runtime: Runtime, container: ContainerSeen) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As soon as the container listens."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await runtime.connect(container, 7000)
            except PortClosed:
                await asyncio.sleep(0.05)
