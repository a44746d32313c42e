"""A command in a session at this terminal: what is typed goes there, what it writes comes here."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson, Kernel, Ref, execute_and_wait, length
from moorage.cli.sockets import PIECE, Address, Broken, Channel, opened
from moorage.domain.errors import InvalidRequest

INTERRUPTED = 130
_STDERR = 2
# The shell that people like best of those that the image has.
_SHELL = ["sh", "-c", 'exec "$(command -v bash || command -v sh)"']


def execute(
    ref: Ref,
    command: Annotated[list[str], typer.Argument(help="Command, after `--`.")],
    interactive: Annotated[bool, typer.Option("-i", "--interactive", help="Send standard input to it.")] = False,
    terminal: Annotated[bool, typer.Option("-t", "--tty", help="Give it a terminal; with -i for shells.")] = False,
    timeout: Annotated[float, length("How long it may take, without -i and -t.")] = 60.0,
    kernel: Kernel = "main1",
    json: AsJson = False,
) -> None:
    """Run a command in a session's container. The exit code is the command's."""
    if not (interactive or terminal):
        return execute_and_wait(ref, command, timeout, kernel, json=json)
    if json:
        raise InvalidRequest("--json goes without -i and -t: there is no one result")
    return _attach(ref, command, typed=interactive, terminal=terminal, kernel=kernel)


def shell(ref: Ref, kernel: Kernel = "main1") -> None:
    """Open a shell in a session: bash where the image has it, else sh."""
    _attach(ref, _SHELL, typed=True, terminal=True, kernel=kernel)


def _attach(ref: str, command: list[str], *, typed: bool, terminal: bool, kernel: str) -> None:
    if terminal and typed and not sys.stdin.isatty():
        raise InvalidRequest("standard input is no terminal", hint="leave -t out to pipe something into the command")
    params = [("command", word) for word in command] + [("kernel", kernel)]
    if terminal:
        columns, lines = shutil.get_terminal_size()
        params += [("tty", "true"), ("rows", str(lines)), ("cols", str(columns)), ("term", os.environ.get("TERM", ""))]
        params = [(name, value) for name, value in params if value]
    address = Client().socket(ref, "terminal", params)
    with _raw(enabled=terminal and typed):
        code = asyncio.run(_run(address, typed=typed, terminal=terminal))
    raise typer.Exit(code)


@contextmanager
def _raw(*, enabled: bool) -> Iterator[None]:
    """Each key as it is pressed; as it was before, however this ends."""
    if not enabled:
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


async def _run(address: Address, *, typed: bool, terminal: bool) -> int:
    """The command's exit code."""
    running = asyncio.current_task()
    assert running is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, running.cancel)
    try:
        async with opened(address) as channel:
            beside = [asyncio.create_task(_type(channel))] if typed else [asyncio.create_task(channel.say("eof"))]
            with _signals(channel, running, beside, terminal=terminal):
                try:
                    return await _show(channel, apart=not terminal)
                finally:
                    for task in beside:
                        task.cancel()
                    await asyncio.gather(*beside, return_exceptions=True)
    except asyncio.CancelledError:
        return INTERRUPTED


async def _show(channel: Channel, *, apart: bool) -> int:
    async for frame in channel.frames():
        if isinstance(frame, bytes):
            output, data = (frame[0], frame[1:]) if apart else (1, frame)
            await asyncio.to_thread(_write, 2 if output == _STDERR else 1, data)
        elif frame["type"] == "exit":
            return int(frame["code"])
        elif frame["type"] == "unreached":
            show.note(f"the node can't send {frame['name']} into the container")
    raise Broken("the connection ended before the command did")


async def _type(channel: Channel) -> None:
    async for data in _standard_input():
        await channel.send(data)
    await channel.say("eof")


async def _standard_input() -> AsyncIterator[bytes]:
    """Read by a thread that nobody waits for: a read can't be called off."""
    loop, coming = asyncio.get_running_loop(), asyncio.Queue[bytes](1)

    def read() -> None:
        data = b"-"
        while data:
            data = os.read(sys.stdin.fileno(), PIECE)
            with suppress(RuntimeError):  # nobody listens any more
                asyncio.run_coroutine_threadsafe(coming.put(data), loop).result()

    threading.Thread(target=read, daemon=True).start()
    while data := await coming.get():
        yield data


@contextmanager
def _signals(
    channel: Channel, running: asyncio.Task[Any], beside: list[asyncio.Task[None]], *, terminal: bool
) -> Iterator[None]:
    """A new window size is passed on; without a terminal there, Ctrl-C too, and the second one leaves."""
    loop = asyncio.get_running_loop()
    interrupted = 0

    def resized() -> None:
        columns, lines = shutil.get_terminal_size()
        beside.append(asyncio.create_task(channel.say("resize", rows=lines, cols=columns)))

    def interrupt() -> None:
        nonlocal interrupted
        interrupted += 1
        if interrupted > 1:
            running.cancel()
        else:
            beside.append(asyncio.create_task(channel.say("signal", name="INT")))

    if terminal:
        loop.add_signal_handler(signal.SIGWINCH, resized)
    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGWINCH)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
