"""The data plane over real connections: terminals, files and ports, and readers of every pace."""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent_worker import dataplane
from agent_worker.dataplane.places import Places
from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.contract import Runtime
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.uses import Uses
from moorage.contracts.dataplane import WINDOW_BYTES, issue_token
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec
from tests.support.listening import listening

KEY = "k" * 32
MIB = 1024**2


@dataclass
class Node:
    address: str
    places: Places
    uses: Uses
    spec: KernelSpec

    def headers(self, action: str) -> dict[str, str]:
        token = issue_token(
            KEY, agent_id="n1", kernel_id=self.spec.kernel_id, action=action, session_id=self.spec.session_id
        )
        return {"Authorization": f"Bearer {token}"}

    def url(self, path: str) -> str:
        return f"{self.address}/{path}/{self.spec.session_id}/{self.spec.kernel_id}"

    def connected(self, path: str, action: str, query: str = "") -> connect:
        name, _, rest = path.partition("/")
        address = f"{self.url(name)}{'/' + rest if rest else ''}{query}".replace("http", "ws", 1)
        return connect(address, additional_headers=self.headers(action), compression=None, proxy=None)

    def terminal(self, *command: str, tty: bool = False) -> connect:
        words = "&".join(f"command={quote(word)}" for word in command)
        return self.connected("terminal", "terminal", f"?{words}{'&tty=1&rows=33&cols=101' if tty else ''}")


Serve = Callable[[Runtime, KernelSpec], "AsyncIterator[Node]"]


async def _node(runtime: Runtime, spec: KernelSpec, kept_logs: KeptLogs) -> AsyncIterator[Node]:
    await runtime.create(spec)
    places, uses = Places(of_kernel=3, of_node=4), Uses()
    app = dataplane.build(runtime, kept_logs, agent_id="n1", key=KEY, places=places, uses=uses)
    async with listening(app) as address:
        yield Node(address, places, uses, spec)


@pytest.fixture
async def node(runtime: Runtime, agent_id: str, kept_logs: KeptLogs) -> AsyncIterator[Node]:
    async for one in _node(
        runtime, a_spec("busybox", "nc", "-l", "-p", "7000", "-e", "cat", agent_id=agent_id), kept_logs
    ):
        yield one


@pytest.fixture
async def docker_node(docker_runtime: DockerRuntime, agent_id: str, kept_logs: KeptLogs) -> AsyncIterator[Node]:
    words = "x" * 400
    lines = f"i=0; while [ $i -lt 12000 ]; do echo {words} $i; i=$((i+1)); done; echo the end; sleep 1000"
    async for one in _node(docker_runtime, a_spec("sh", "-c", lines, agent_id=agent_id), kept_logs):
        yield one


async def _frames(connection: ClientConnection) -> tuple[dict[int, bytes], list[dict[str, object]]]:
    """All outputs and words until the other side closes."""
    outputs, words = {1: b"", 2: b""}, []
    async with asyncio.timeout(20):
        async for frame in _until_closed(connection):
            if isinstance(frame, bytes):
                outputs[frame[0]] += frame[1:]
            else:
                words.append(json.loads(frame))
    return outputs, words


async def _until_closed(connection: ClientConnection) -> AsyncIterator[str | bytes]:
    with suppress(ConnectionClosed):
        async for frame in connection:
            yield frame


async def _freed(node: Node) -> None:
    async with asyncio.timeout(20):
        while node.places.open():
            await asyncio.sleep(0.01)


async def test_input_and_outputs_of_a_command_and_its_exit_code(node: Node) -> None:
    async with node.terminal("cat") as connection:
        await connection.send(b"hello")
        await connection.send(json.dumps({"type": "eof"}))
        outputs, words = await _frames(connection)
    assert (outputs[1], outputs[2]) == (b"hello", b"")
    assert words[-1] == {"type": "exit", "code": 0}
    assert node.uses.last_use(node.spec.kernel_id) is not None
    await _freed(node)


async def test_a_terminal_passes_bytes_as_they_are_and_is_resized(node: Node, runtime: Runtime) -> None:
    ask = b"stty size\n" if type(runtime).__name__ == "SimulatedRuntime" else b"busybox stty size\n"
    async with node.terminal("sh", tty=True) as connection, asyncio.timeout(20):
        for size, words in ((b"33 101", {"type": "resize", "rows": 20, "cols": 60}), (b"20 60", None)):
            await connection.send(ask)
            said = b""
            while size not in said:
                frame = await connection.recv()
                said += frame if isinstance(frame, bytes) else b""
            if words:
                await connection.send(json.dumps(words))
        await connection.send(b"exit 7\n")
        last = [frame async for frame in connection][-1]
    assert json.loads(last) == {"type": "exit", "code": 7}


@pytest.mark.parametrize(
    "frame",
    [
        "nonsense",
        "[]",
        '{"type": "dance"}',
        '{"type": "resize", "rows": 0, "cols": 1}',
        '{"type": "signal", "name": "STOP"}',
    ],
)
async def test_a_frame_that_means_nothing_ends_the_terminal_in_words(node: Node, frame: str) -> None:
    async with node.terminal("cat") as connection:
        await connection.send(frame)
        _, words = await _frames(connection)
    assert words[-1]["type"] == "error"
    await _freed(node)


async def test_input_that_nobody_reads_is_held_up_to_a_window(node: Node) -> None:
    """So that whoever sends on is still heard when it leaves."""
    async with node.terminal("sleep", "60") as connection:
        try:
            for _ in range(6):
                await connection.send(bytes(WINDOW_BYTES // 2))
            _, words = await _frames(connection)
            assert words[-1]["type"] == "error"
        except ConnectionClosed:
            pass
    await _freed(node)


ROUTES = {
    "logs": ("GET", "logs", ""),
    "exec": ("POST", "exec", ""),
    "terminal": ("WS", "terminal", "?command=true"),
    "download": ("GET", "files", "?path=/tmp"),
    "upload": ("PUT", "files", "?path=/tmp"),
    "port:7000": ("WS", "ports/7000", ""),
}


@pytest.mark.parametrize("needed", ROUTES)
async def test_a_token_opens_its_own_door_alone(docker_free_node: Node, needed: str) -> None:
    method, path, query = ROUTES[needed]
    for action in [*ROUTES, "port:7001", "stats"]:
        if action != needed:
            assert await _asked(docker_free_node, method, path, query, action) == 401, action
    assert await _asked(docker_free_node, method, path, query, needed) != 401


async def _asked(node: Node, method: str, path: str, query: str, action: str) -> int:
    if method != "WS":
        async with httpx.AsyncClient() as http:
            answer = await http.request(method, node.url(path) + query, headers=node.headers(action))
            return answer.status_code
    try:
        async with node.connected(path, action, query):
            return 101
    except InvalidStatus as refusal:
        return refusal.response.status_code


@pytest.fixture
async def docker_free_node(simulated_runtime: Runtime, kept_logs: KeptLogs) -> AsyncIterator[Node]:
    async for one in _node(simulated_runtime, a_spec(), kept_logs):
        yield one


async def test_streams_of_a_kernel_are_counted_and_too_many_are_refused_with_the_numbers(node: Node) -> None:
    open_ones = [await node.terminal("cat") for _ in range(3)]
    with pytest.raises(InvalidStatus) as refusal:
        await node.terminal("cat")
    problem = json.loads(refusal.value.response.body or b"")
    assert (refusal.value.response.status_code, problem["code"]) == (429, "too-many-streams")
    assert "3 may be" in problem["title"]
    for one in open_ones:
        await one.close()
    await _freed(node)
    async with node.terminal("cat"):
        pass


async def test_bytes_of_a_port_pass_both_ways_until_both_have_ended(node: Node) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        await node.connected("ports/81", "port:81")
    assert json.loads(refusal.value.response.body or b"")["code"] == "port-closed"
    async with await _port(node) as connection:
        await connection.send(b"hello")
        await connection.send(json.dumps({"type": "eof"}))
        async with asyncio.timeout(20):
            frames = [frame async for frame in connection]
    assert b"".join(one for one in frames if isinstance(one, bytes)) == b"hello"
    assert json.loads(frames[-1]) == {"type": "eof"}
    await _freed(node)


async def _port(node: Node) -> ClientConnection:
    async with asyncio.timeout(20):
        while True:
            try:
                return await node.connected("ports/7000", "port:7000")
            except InvalidStatus:  # it does not listen yet
                await asyncio.sleep(0.05)


@pytest.mark.docker
async def test_a_shell_is_not_left_behind_by_a_client_that_vanishes(
    docker_node: Node, docker_runtime: DockerRuntime
) -> None:
    connection = await docker_node.terminal("sh", "-c", "sleep 4242 & sleep 4343", tty=True)
    [container] = await docker_runtime.containers()
    await _until_running(docker_runtime, "sleep\x004343", there=True)
    connection.transport.abort()
    await _until_running(docker_runtime, "sleep\x004343", there=False)
    await _until_running(docker_runtime, "sleep\x004242", there=False)
    assert (await docker_runtime.containers())[0].state == container.state == "running"
    await _freed(docker_node)


async def _until_running(runtime: Runtime, words: str, *, there: bool) -> None:
    [container] = await runtime.containers()
    async with asyncio.timeout(20):
        while True:
            found = await runtime.execute(container, ["sh", "-c", "cat /proc/[0-9]*/cmdline"], 20)
            if (words in found.stdout) == there:
                return


@pytest.mark.docker
async def test_a_reader_that_stalls_holds_up_nobody_and_costs_no_memory(docker_node: Node) -> None:
    threads = threading.active_count()
    tracemalloc.start()
    try:
        async with httpx.AsyncClient(timeout=60) as http:
            params, headers = {"follow": "1"}, docker_node.headers("logs")
            url = docker_node.url("logs")
            async with http.stream("GET", url, params=params, headers=headers):  # is never read
                async with http.stream("GET", url, params=params, headers=headers) as quick:
                    lines = 0
                    async for line in quick.aiter_lines():
                        lines += 1
                        if line == "the end":
                            break
                assert lines == 12001
                assert docker_node.places.open() >= 1
                assert threading.active_count() == threads
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB
    await _freed(docker_node)


@pytest.mark.docker
async def test_large_files_pass_through_in_bounded_memory(docker_node: Node) -> None:
    size = 64 * MIB

    async def archive() -> AsyncIterator[bytes]:
        entry = tarfile.TarInfo("large")
        entry.size = size
        yield entry.tobuf()
        for _ in range(size // MIB):
            yield bytes(MIB)
        yield bytes(1024)

    tracemalloc.start()
    try:
        async with httpx.AsyncClient(timeout=60) as http:
            url = docker_node.url("files")
            sent = await http.put(
                url, params={"path": "/tmp"}, content=archive(), headers=docker_node.headers("upload")
            )
            assert sent.status_code == 200, sent.text
            came = 0
            async with http.stream(
                "GET", url, params={"path": "/tmp/large"}, headers=docker_node.headers("download")
            ) as answer:
                async for piece in answer.aiter_raw():
                    came += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert came >= size
    assert peak < 16 * MIB


async def test_a_tar_with_a_way_out_is_refused_in_words(node: Node) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../out"))
    async with httpx.AsyncClient() as http:
        url = node.url("files")
        answer = await http.put(url, params={"path": "/tmp"}, content=packed.getvalue(), headers=node.headers("upload"))
        assert (answer.status_code, answer.json()["code"]) == (409, "file-refused")
        answer = await http.get(url, params={"path": "/out", "stat": "1"}, headers=node.headers("download"))
        assert (answer.status_code, answer.json()["code"]) == (404, "file-not-found")
        for path in ("", "relative", "/a\0b"):
            answer = await http.get(url, params={"path": path}, headers=node.headers("download"))
            assert answer.status_code == 400


@pytest.mark.docker
async def test_a_log_goes_on_where_it_broke_off(docker_node: Node) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        url, headers = docker_node.url("logs"), docker_node.headers("logs")
        await _written(http, docker_node)
        whole = (await http.get(url, params={"stamps": "1"}, headers=headers)).text.splitlines()
        middle = whole[6_000][:30]
        rest = (await http.get(url, params={"stamps": "1", "since": middle}, headers=headers)).text.splitlines()
        assert rest == whole[6_000:]
        last = (await http.get(url, params={"tail": "2"}, headers=headers)).text
        assert last == f"{'x' * 400} 11999\nthe end\n"


async def _written(http: httpx.AsyncClient, node: Node) -> None:
    async with asyncio.timeout(30):
        while (
            "the end" not in (await http.get(node.url("logs"), params={"tail": "1"}, headers=node.headers("logs"))).text
        ):
            await asyncio.sleep(0.05)
