"""Docker's ways into a container that runs: by a command, and by a port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from docker.errors import APIError, NotFound

from agent_worker.runtimes.contract import OUTPUT_CAP, CreateRefused, ExecResult, GoesOn
from agent_worker.runtimes.inspected import own_addresses, words_of
from agent_worker.runtimes.left_behind import LeftBehind
from agent_worker.runtimes.ports import accepts


class Within:
    """`call` runs a blocking function in a thread, `stream` reads a blocking iterator in one of its own."""

    def __init__(
        self,
        client: Any,
        streams: Any,
        *,
        call: Callable[[Callable[[], Any]], Any],
        stream: Callable[[Callable[[], Any]], AsyncGenerator[Any, None]],
    ) -> None:
        self._client = client
        self._streams = streams
        self._call = call
        self._stream = stream
        self._left_behind = LeftBehind(client)

    async def execute(self, container_id: str, command: list[str], timeout_s: float) -> ExecResult:
        out, err, made = bytearray(), bytearray(), ""
        try:
            async with asyncio.timeout(timeout_s):
                made = await self._call(lambda: self._client.exec_create(container_id, command)["Id"])
                opened = partial(self._streams.exec_start, made, stream=True, demux=True)
                async with aclosing(self._stream(opened)) as pieces:
                    async for pieces_out, pieces_err in pieces:
                        out += (pieces_out or b"")[: OUTPUT_CAP - len(out)]
                        err += (pieces_err or b"")[: OUTPUT_CAP - len(err)]
                code = (await self._call(lambda: self._client.exec_inspect(made)))["ExitCode"]
        except APIError as error:
            raise CreateRefused(words_of(error)) from None
        except TimeoutError:
            over = not made or await self._call(partial(self._left_behind.end, container_id, made))
            if not over:
                raise GoesOn(partial(self._call, partial(self._left_behind.runs, made))) from None
            raise
        return ExecResult(int(code or 0), out.decode(errors="replace"), err.decode(errors="replace"))

    async def connects(self, container_id: str, port: int, timeout_s: float) -> bool:
        def ask() -> bool:
            with suppress(NotFound):
                found = self._client.inspect_container(container_id)
                if pid := int(found["State"]["Pid"]):
                    return accepts(pid, own_addresses(self._client, found), port, timeout_s)
            return False

        return bool(await self._call(ask))
