"""A command that only pretends to run. A few do what they say:

`cat` copies its input, `cat PATH` shows a file, `exit N` ends so (`sh -c` of it too), `sleep N` waits. A shell without
arguments echoes lines: `exit N` ends it, `stty size` tells the window's. Everything else says what it would have run.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

from agent_worker.runtimes.process import STDOUT, Order, Process, Window

_READ_AHEAD = 1
_SHELLS = {"sh", "bash"}
_INTERRUPT = b"\x03"


class SimulatedProcess(Process):
    def __init__(self, order: Order, read_file: Callable[[str], bytes | None]) -> None:
        self._order = order
        self._window = order.window
        self._read_file = read_file
        self._input: asyncio.Queue[bytes] = asyncio.Queue(_READ_AHEAD)
        self._output: asyncio.Queue[bytes] = asyncio.Queue(_READ_AHEAD)
        self._code = 0
        self._running = asyncio.create_task(self._run())

    async def read(self) -> tuple[int, bytes] | None:
        if self._output.empty() and not self._running.done():
            item = asyncio.ensure_future(self._output.get())
            try:
                await asyncio.wait({item, self._running}, return_when=asyncio.FIRST_COMPLETED)
                if item.done():
                    return STDOUT, item.result()
            finally:
                item.cancel()
        return None if self._output.empty() else (STDOUT, self._output.get_nowait())

    async def write(self, data: bytes) -> None:
        if self._window is not None and _INTERRUPT in data:
            await self.signal("INT")
        if not self._running.done():
            await self._input.put(data)

    async def end_input(self) -> None:
        if not self._running.done():
            await self._input.put(b"")

    async def resize(self, window: Window) -> None:
        self._window = window

    async def signal(self, name: str) -> bool:
        if self._running.done():
            return False
        self._code = 128 + signal.Signals[f"SIG{name}"]
        self._running.cancel()
        return True

    async def exit_code(self) -> int:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({self._running})
        return self._code

    async def runs(self) -> bool:
        return not self._running.done()

    async def close(self) -> None:
        await self.signal("HUP")

    async def _run(self) -> None:
        words = self._order.command
        if len(words) == 3 and words[:2] == ["sh", "-c"] and words[2].startswith("exit "):
            words = words[2].split()
        if words[0] in _SHELLS and len(words) == 1:
            await self._shell()
        elif words == ["cat"]:
            while data := await self._input.get():
                await self._output.put(data)
        elif words[0] == "cat" and (content := self._read_file(words[-1])) is not None:
            await self._output.put(content)
        elif words[0] == "exit" and words[-1].isdecimal():
            self._code = int(words[-1])
        elif words[0] == "sleep" and len(words) == 2:
            await asyncio.sleep(float(words[1]))
        else:
            await self._output.put(f"simulated: {' '.join(words)}\n".encode())

    async def _shell(self) -> None:
        end = "\n" if self._window is None else "\r\n"
        held = b""
        while data := await self._input.get():
            *lines, held = (held + data).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                words = line.decode(errors="replace").split()
                if words[:1] == ["exit"]:
                    self._code = int(words[1]) if words[1:] and words[1].isdecimal() else 0
                    return
                size = self._window or Window(0, 0)
                said = f"{size.rows} {size.cols}" if words == ["stty", "size"] else f"simulated: {' '.join(words)}"
                await self._output.put(f"{said}{end}".encode())
