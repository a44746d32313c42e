"""A command in a container, over the connection that Docker gives to it alone."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpcore
import httpx

from agent_worker.runtimes import reach
from agent_worker.runtimes.contract import CreateRefused, RuntimeRefusal
from agent_worker.runtimes.engine import CHUNK, Engine, Frames
from agent_worker.runtimes.process import STDOUT, Order, Process, Window
from moorage import log

_GRACE_S = 3.0
# Docker closes the outputs a moment before it knows the exit code.
_CODE_WITHIN_S = 10.0
_BEGUN_WITHIN_S = 10.0
# Docker hears of a death a little later.
_HEARD_WITHIN_S = 1.0
_log = log.get("docker")


async def begin(engine: Engine, container_id: str, order: Order) -> DockerProcess:
    """CreateRefused with Docker's words."""
    tty = order.window is not None
    body = {
        "Cmd": order.command,
        "Env": [f"{name}={value}" for name, value in order.env.items()],
        "Tty": tty,
        **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr"), True),
    }
    try:
        made = (await engine.ask("POST", f"/containers/{container_id}/exec", json=body)).json()["Id"]
        stream, closing = await engine.connect(f"/exec/{made}/start", {"Detach": False, "Tty": tty})
    except RuntimeRefusal as error:
        raise CreateRefused(str(error)) from None
    process = DockerProcess(engine, container_id, str(made), stream, closing, tty=tty)
    if order.window is not None:
        await process.resize(order.window)
    return process


class DockerProcess(Process):
    def __init__(
        self, engine: Engine, container_id: str, exec_id: str, stream: Any, closing: AsyncExitStack, *, tty: bool
    ) -> None:
        """`stream` is httpcore's: read, write and get_extra_info."""
        self._engine, self._container_id, self._exec_id = engine, container_id, exec_id
        self._stream, self._closing = stream, closing
        self._frames = None if tty else Frames(self._pieces())

    async def read(self) -> tuple[int, bytes] | None:
        if self._frames is not None:
            return await anext(self._frames, None)
        piece = await self._piece()
        return (STDOUT, piece) if piece else None

    async def write(self, data: bytes) -> None:
        with suppress(httpcore.NetworkError, OSError):
            await self._stream.write(data)

    async def end_input(self) -> None:
        connection = self._stream.get_extra_info("socket")
        with suppress(OSError):
            connection.shutdown(socket.SHUT_WR)

    async def resize(self, window: Window) -> None:
        """Docker knows no terminal before the command has begun, and none after its end."""
        await self._begun()
        params = {"h": str(window.rows), "w": str(window.cols)}
        with suppress(RuntimeRefusal):
            await self._engine.ask("POST", f"/exec/{self._exec_id}/resize", params=params)

    async def signal(self, name: str) -> bool:
        leader, first = await self._numbers()
        return bool(leader and first) and await asyncio.to_thread(
            reach.send_signal, leader, first, signal.Signals[f"SIG{name}"]
        )

    async def exit_code(self) -> int:
        async with asyncio.timeout(_CODE_WITHIN_S):
            while (found := await self._inspect())["Running"]:  # noqa: ASYNC110 (Docker tells it nobody)
                await asyncio.sleep(0.01)
        return int(found["ExitCode"] or 0)

    async def close(self) -> None:
        await asyncio.shield(asyncio.ensure_future(self._hang_up()))

    async def _hang_up(self) -> None:
        with suppress(httpx.HTTPError, httpcore.NetworkError, OSError):
            await self._closing.aclose()
        try:
            leader, first = await self._numbers()
            if leader and await reach.end(leader, first, _GRACE_S):
                await self._heard()
        except (httpx.HTTPError, RuntimeRefusal) as error:
            _log.warning("a command may go on in its container", container=self._container_id, error=str(error)[:200])

    async def _heard(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEARD_WITHIN_S):
                while await self.runs():  # noqa: ASYNC110 (Docker tells it nobody)
                    await asyncio.sleep(0.01)

    async def runs(self) -> bool:
        with suppress(RuntimeRefusal):
            return bool((await self._inspect())["Running"])
        return False

    async def _numbers(self) -> tuple[int, int]:
        """Of the command and of the container's first process, on this host; 0 for what does not run."""
        found = await self._begun()
        if not found["Running"]:
            return 0, 0
        container = (await self._engine.ask("GET", f"/containers/{self._container_id}/json")).json()
        return int(found["Pid"]), int(container["State"]["Pid"])

    async def _begun(self) -> dict[str, Any]:
        """Docker answers before the command runs; what was not waited for could be neither resized nor ended."""
        deadline = time.monotonic() + _BEGUN_WITHIN_S
        while not (found := await self._inspect())["Pid"] and found["ExitCode"] is None:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        return found

    async def _inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self._engine.ask("GET", f"/exec/{self._exec_id}/json")).json()
        return found

    async def _pieces(self) -> AsyncIterator[bytes]:
        while piece := await self._piece():
            yield piece

    async def _piece(self) -> bytes:
        """Empty at the end."""
        with suppress(httpcore.NetworkError, OSError):
            return bytes(await self._stream.read(CHUNK))
        return b""
