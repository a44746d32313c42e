"""A command with its input and outputs over a WebSocket, with a terminal or without."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from agent_worker.dataplane import inbox, until
from agent_worker.dataplane.access import Access, number
from agent_worker.runtimes.contract import CreateRefused
from agent_worker.runtimes.process import SIGNALS, Order, Process, Window
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError

_LONGEST_COMMAND = 64 * 1024
_LARGEST = 1000  # rows or columns
_TERM = re.compile(r"[A-Za-z0-9._+-]{1,64}")


class Terminals:
    def __init__(self, access: Access) -> None:
        self._access = access

    async def open(self, websocket: WebSocket) -> None:
        session_id, kernel_id = self._access.allow(websocket, "terminal")
        order = _order(websocket)
        container = await self._access.running(session_id, kernel_id)
        with self._access.places.take(kernel_id):
            try:
                process = await self._access.runtime.attach(container, order)
            except CreateRefused as error:
                raise Conflict(str(error), code="exec-refused") from None
            async with process:
                await websocket.accept()
                with suppress(WebSocketDisconnect):
                    try:
                        await self._serve(websocket, process, kernel_id, apart=order.window is None)
                    except MoorageError as error:
                        await inbox.refuse(websocket, error)

    async def _serve(self, websocket: WebSocket, process: Process, kernel_id: str, *, apart: bool) -> None:
        held = inbox.Inbox()

        async def control(words: dict[str, Any]) -> None:
            await _control(process, websocket, words)

        async def take(data: bytes) -> None:
            self._access.uses.touch(kernel_id)
            await process.write(data)

        async def feed() -> None:
            await inbox.empty(held, websocket, take)
            await process.end_input()

        async def show() -> None:
            while (found := await process.read()) is not None:
                output, data = found
                await websocket.send_bytes(bytes([output]) + data if apart else data)
            await websocket.send_json({"type": "exit", "code": await process.exit_code()})
            await websocket.close()

        # It goes on when its input has ended, and ends with its outputs or with the client.
        await until.first_of(inbox.fill(held, websocket, control), show(), beside=feed())


async def _control(process: Process, websocket: WebSocket, words: dict[str, Any]) -> None:
    if words["type"] == "resize":
        rows, cols = words.get("rows"), words.get("cols")
        if not all(type(one) is int and 0 < one <= _LARGEST for one in (rows, cols)):
            raise InvalidRequest(f"rows and cols must be numbers from 1 to {_LARGEST}")
        assert isinstance(rows, int)
        assert isinstance(cols, int)
        await process.resize(Window(rows, cols))
    elif words["type"] == "signal":
        name = words.get("name")
        if name not in SIGNALS:
            raise InvalidRequest(f"signal {str(name)[:20]!r} is not sent; allowed are {', '.join(SIGNALS)}")
        if not await process.signal(str(name)):
            await websocket.send_json({"type": "unreached", "name": name})
    else:
        raise InvalidRequest(f"{words['type'][:40]!r} is no frame; allowed are resize, signal and eof")


def _order(websocket: WebSocket) -> Order:
    asked = websocket.query_params
    command = asked.getlist("command")
    if (
        not command
        or not command[0]
        or sum(map(len, command)) > _LONGEST_COMMAND
        or any("\0" in one for one in command)
    ):
        raise InvalidRequest(f"command must be given, word by word, in {_LONGEST_COMMAND} characters at most")
    if asked.get("tty") != "1":
        return Order(command)
    term = asked.get("term", "xterm")
    if not _TERM.fullmatch(term):
        raise InvalidRequest(f"term is {term[:40]!r}; it must be a name such as xterm-256color")
    rows, cols = (number(websocket, name, least=1, most=_LARGEST) for name in ("rows", "cols"))
    usual = Window()
    return Order(command, Window(rows or usual.rows, cols or usual.cols), {"TERM": term})
