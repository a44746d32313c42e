"""`moor port-forward`: ports of a session at this machine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson, Kernel, Ref
from moorage.cli.sockets import PIECE, Address, Channel, opened
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError
from moorage.domain.session import SessionStatus

_HERE = "127.0.0.1"
_HIGHEST = 65535


def port_forward(
    ref: Ref,
    ports: Annotated[
        list[str], typer.Argument(help="PORT there, or PORT:LOCAL; several at once. LOCAL 0: a free one.")
    ],
    kernel: Kernel = "main1",
    json: AsJson = False,
) -> None:
    """Reach ports of a session at 127.0.0.1, until Ctrl-C."""
    pairs = [_pair(words) for words in ports]
    client = Client()
    session = client.session(ref)
    if session["status"] != SessionStatus.RUNNING:
        raise Conflict(f"session {session['name']} is {session['status']}; a port needs RUNNING")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(client, session["name"], session["id"], pairs, kernel, json=json))


def _pair(words: str) -> tuple[int, int]:
    """(port there, port here)"""
    there, colon, here = words.partition(":")
    numbers = [there, here if colon else there]
    if not all(one.isascii() and one.isdecimal() and int(one) <= _HIGHEST for one in numbers) or int(there) == 0:
        raise InvalidRequest(f"{words!r} is no port; allowed are for example 8888 or 8888:9999")
    return int(numbers[0]), int(numbers[1])


async def _serve(
    client: Client, name: str, session_id: str, pairs: list[tuple[int, int]], kernel: str, *, json: bool
) -> None:
    async with AsyncExitStack() as closing:
        listening = []
        for there, here in pairs:
            tunnels = _Tunnels(client, session_id, there, kernel)
            server = await asyncio.start_server(tunnels.serve, _HERE, here, limit=PIECE)
            await closing.enter_async_context(server)
            listening.append((there, server.sockets[0].getsockname()[1]))
        if json:
            show.as_json({"ports": [{"port": there, "address": f"{_HERE}:{here}"} for there, here in listening]})
        for there, here in () if json else listening:
            print(f"{_HERE}:{here} → {name}:{there}", flush=True)
        await asyncio.Event().wait()


class _Tunnels:
    """Each connection here gets one of its own there."""

    def __init__(self, client: Client, session_id: str, port: int, kernel: str) -> None:
        self._client, self._session_id, self._port, self._kernel = client, session_id, port, kernel

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with opened(await asyncio.to_thread(self._address)) as channel:
                await _pass(channel, reader, writer)
        except MoorageError as error:
            show.note(f"port {self._port}: {error.message}")
        except OSError:
            pass  # whoever connected here went
        finally:
            writer.close()

    def _address(self) -> Address:
        return self._client.socket(self._session_id, f"ports/{self._port}", [("kernel", self._kernel)])


async def _pass(channel: Channel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both ways, until the tunnel is closed there."""
    there = asyncio.create_task(_there(channel, reader))
    try:
        async for frame in channel.frames():
            if isinstance(frame, bytes):
                writer.write(frame)
                await writer.drain()
            elif frame["type"] == "eof" and writer.can_write_eof():
                writer.write_eof()
    finally:
        there.cancel()
        await asyncio.gather(there, return_exceptions=True)


async def _there(channel: Channel, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(PIECE):
        await channel.send(data)
    await channel.say("eof")
