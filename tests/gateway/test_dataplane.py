"""Sessions' terminals, files, ports and logs through the gateway, from a node with the simulated runtime."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pty
import select
import signal
import struct
import sys
import tarfile
import termios
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fcntl import ioctl
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from agent_worker import dataplane
from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.db import nodes
from tests.agent.specs import a_spec
from tests.gateway.test_audit import rows
from tests.support.builders import an_agent
from tests.support.gateway import Gateway, refused
from tests.support.listening import listening


@dataclass
class Session:
    """A running one, and the address of the gateway."""

    gateway: Gateway
    address: str
    id: str

    def connected(self, path: str, who: dict[str, str]) -> connect:
        address = f"{self.address}/session/{self.id}/{path}".replace("http", "ws", 1)
        return connect(address, additional_headers=who, compression=None, proxy=None)


@pytest.fixture
async def session(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Session]:
    runtime = SimulatedRuntime(tmp_path / "containers.json")
    app = dataplane.build(runtime, KeptLogs(tmp_path / "logs", cap_bytes=1000), agent_id="n1", key="d" * 32)
    made = await gateway.submitted(name="train")
    async with listening(app) as node, listening(gateway.app) as address:
        await nodes.register(gateway.engine, an_agent("n1"))
        async with gateway.engine.begin() as connection:
            await connection.execute(text("SET LOCAL session_replication_role = replica"))
            await connection.execute(text("UPDATE agents SET address = :node"), {"node": node})
            await connection.execute(text("UPDATE sessions SET status = 'RUNNING', agent_id = 'n1'"))
            await connection.execute(text("UPDATE kernels SET agent_id = 'n1', container_id = 'c1'"))
            kernel_id = str((await connection.execute(text("SELECT id FROM kernels"))).scalar_one())
        spec = a_spec(kernel_id=kernel_id)
        object.__setattr__(spec, "session_id", made["id"])
        await runtime.create(spec)
        yield Session(gateway, address, made["id"])
    await runtime.close()


async def test_a_terminal_passes_through_and_the_audit_knows_its_program_alone(session: Session) -> None:
    async with session.connected("terminal?command=cat&command=-hunter2", session.gateway.ada) as connection:
        said = [frame async for frame in connection]
    assert said == [b"\x01simulated: cat -hunter2\n", '{"type":"exit","code":0}']
    [asked] = await rows(session.gateway, operation="session:execute")
    assert (asked["after"], asked["outcome"]) == ({"program": "cat", "terminal": False}, "asked")
    assert "hunter" not in json.dumps(asked)


async def test_a_websocket_is_refused_as_a_request_is(session: Session) -> None:
    for path, who, status, code in [
        ("terminal?command=sh", {}, 401, "auth-failed"),
        ("terminal?command=sh", session.gateway.bob, 404, "object-not-found"),
        ("terminal", session.gateway.ada, 400, "invalid-api-params"),
        ("terminal?command=sh&kernel=sub3", session.gateway.ada, 404, "kernel-not-found"),
        ("terminal?command=sh&kernel=x", session.gateway.ada, 400, "invalid-api-params"),
        ("ports/81", session.gateway.ada, 409, "port-closed"),
        ("ports/0", session.gateway.ada, 400, "invalid-api-params"),
        ("ports/99999", session.gateway.ada, 400, "invalid-api-params"),
    ]:
        with pytest.raises(InvalidStatus) as refusal:
            await session.connected(path, who)
        problem = json.loads(refusal.value.response.body or b"")
        assert (refusal.value.response.status_code, problem["code"]) == (status, code), path
        assert refusal.value.response.headers["x-request-id"]


async def test_a_port_passes_through(session: Session) -> None:
    async with session.connected("ports/8888", session.gateway.ada) as connection, asyncio.timeout(20):
        await connection.send(b"hello")
        assert await connection.recv() == b"hello"
        await connection.send(json.dumps({"type": "eof"}))
        assert [frame async for frame in connection] == ['{"type":"eof"}']


async def test_files_pass_through_beyond_the_limit_of_bodies(session: Session) -> None:
    content, packed = os.urandom(3 * 1024**2), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("large")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    gateway, url = session.gateway, f"/session/{session.id}/files"
    sent = await gateway.http.put(url, params={"path": "/tmp"}, content=packed.getvalue(), headers=gateway.ada)
    assert sent.json() == {"path": "/tmp", "bytes": len(packed.getvalue())}

    async def asked_for(**params: str) -> httpx.Response:
        return await gateway.http.get(url, params=params, headers=gateway.ada)

    found = await asked_for(path="/tmp/large", stat="true")
    assert (found.json()["name"], found.json()["size"]) == ("large", len(content))
    with tarfile.open(fileobj=io.BytesIO((await asked_for(path="/tmp/large")).content)) as tar:
        file = tar.extractfile("large")
        assert file is not None
        assert file.read() == content
    refused(await asked_for(path="/nowhere"), 404, "file-not-found")
    refused(await asked_for(path="/tmp", kernel="sub1"), 404, "kernel-not-found")
    asked = await rows(gateway, operation="session:upload")
    assert asked[0]["after"] == {"path": "/tmp", "kernel": "main1"}


async def test_a_signed_upload_is_not_held_to_be_checked(session: Session) -> None:
    signed = {
        "Authorization": f"Moorage signMethod=HMAC-SHA256, credential=AKIAX:{'0' * 64}, nonce={'n' * 24}",
        "Date": datetime.now(UTC).isoformat(),
    }
    answer = await session.gateway.http.put(
        f"/session/{session.id}/files", params={"path": "/tmp"}, content=b"x", headers=signed
    )
    assert "can't be signed with its body" in refused(answer, 401, "auth-failed")["title"]


async def test_whoever_follows_a_log_goes_on_behind_the_last_event(session: Session) -> None:
    async with httpx.AsyncClient(base_url=session.address, headers=session.gateway.ada) as http:
        event = await _first_event(http, session, {})
        assert event["data"] == '{"text": "simulated: started\\n"}'
        refusal = await http.get(
            f"/session/{session.id}/logs", params={"follow": "true"}, headers={"Last-Event-ID": "nonsense"}
        )
        refused(refusal, 400, "invalid-api-params")
        plain = await http.get(f"/session/{session.id}/logs", params={"timestamps": "true"})
        stamp, offset = event["id"].split("+")
        assert plain.text == f"{stamp} simulated: started\n"
        assert int(offset) == len("simulated: started\n")
        middle = await _first_event(http, session, {"Last-Event-ID": f"{stamp}+11"})
        assert middle["data"] == '{"text": "started\\n"}'
        for params, expected in [({"since": "1h"}, "simulated: started\n"), ({"since": "2999-01-01"}, "")]:
            assert (await http.get(f"/session/{session.id}/logs", params=params)).text == expected


async def _first_event(http: httpx.AsyncClient, session: Session, headers: dict[str, str]) -> dict[str, str]:
    event: dict[str, str] = {}
    async with (
        asyncio.timeout(20),
        http.stream("GET", f"/session/{session.id}/logs", params={"follow": "true"}, headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if not line:
                return event
            name, _, value = line.partition(": ")
            event[name] = value
    raise AssertionError("no event")


async def test_moor_exec_with_a_terminal_is_one_and_leaves_this_one_as_it_was(session: Session, tmp_path: Path) -> None:
    main, ours = pty.openpty()
    ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(ours)
    moor = await _moor(session, tmp_path, "exec", "-it", session.id, "sh", terminal=ours)
    async with asyncio.timeout(30):
        await _answered(main, b"stty size\r", b"33 101")
        ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        moor.send_signal(signal.SIGWINCH)  # this terminal controls another process, which gets the kernel's
        await _answered(main, b"stty size\r", b"20 60")
        os.write(main, b"exit 7\r")
        assert await moor.wait() == 7
    assert termios.tcgetattr(ours) == before
    os.close(main)
    os.close(ours)


async def _answered(terminal: int, words: bytes, answer: bytes) -> None:
    """Asked again until that comes: what is typed while the terminal changes may be echoed only."""
    said = b""
    while answer not in said:
        os.write(terminal, words)
        while await asyncio.to_thread(select.select, [terminal], [], [], 0.3) != ([], [], []):
            said += os.read(terminal, 4096)


async def test_moor_pipes_its_input_and_copies_files_there_and_back(session: Session, tmp_path: Path) -> None:
    piped = await _moor(session, tmp_path, "exec", session.id, "-i", "cat")
    out, _ = await piped.communicate(b"hello")
    assert (piped.returncode, out) == (0, b"hello")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "file").write_bytes(bytes(range(256)) * 500)
    for pair in (
        (str(tmp_path / "folder"), f"{session.id}:/tmp"),
        (f"{session.id}:/tmp/folder", str(tmp_path / "back")),
    ):
        copying = await _moor(session, tmp_path, "cp", *pair)
        _, err = await copying.communicate()
        assert copying.returncode == 0, err
    assert (tmp_path / "back" / "below" / "file").read_bytes() == bytes(range(256)) * 500


async def test_moor_forwards_ports_until_it_is_interrupted(session: Session, tmp_path: Path) -> None:
    forwarding = await _moor(session, tmp_path, "port-forward", session.id, "8888:0")
    assert forwarding.stdout is not None
    async with asyncio.timeout(30):
        line = (await forwarding.stdout.readline()).decode()
        address, _, name = line.strip().partition(" → ")
        assert name == "train:8888"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rpartition(":")[2]))
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        forwarding.send_signal(2)
        assert await forwarding.wait() == 0


async def _moor(session: Session, folder: Path, *words: str, terminal: int | None = None) -> asyncio.subprocess.Process:
    key, _, secret = base64.b64decode(session.gateway.ada["Authorization"].split()[1]).decode().partition(":")
    ours = {"MOORAGE_ENDPOINT": session.address, "MOORAGE_ACCESS_KEY": key, "MOORAGE_SECRET_KEY": secret}
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    streams = asyncio.subprocess.PIPE if terminal is None else terminal
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moorage.cli.main", *words),
        env=outer | ours | {"MOORAGE_CONFIG_DIR": str(folder), "COLUMNS": "", "LINES": "", "TERM": "xterm"},
        stdin=streams,
        stdout=streams,
        stderr=asyncio.subprocess.PIPE if terminal is None else terminal,
    )
