"""Processes of a container as the host sees them. Only what lies in the container's own namespaces is ever touched."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_PROC = Path("/proc")


@contextmanager
def opened(pid: int, first: int) -> Iterator[int | None]:
    """A handle (pidfd) of a process of the container whose first process is `first`.

    None if it is gone, belongs elsewhere, or can't be seen from here: Docker on another machine, an agent that is not
    root. The handle stays that of the same process whatever becomes of its number.
    """
    handle = None
    with suppress(OSError):
        handle = os.pidfd_open(pid)
    try:
        yield handle if handle is not None and _is_within(pid, first) else None
    finally:
        if handle is not None:
            os.close(handle)


def send_signal(leader: int, first: int, number: signal.Signals) -> bool:
    """To a process and all that are in the session it leads; False if it is out of reach."""
    reached = False
    for pid in _session(leader):
        with opened(pid, first) as handle, suppress(OSError):
            if handle is not None:
                signal.pidfd_send_signal(handle, number)
                reached = True
    return reached


async def end(leader: int, first: int, grace_s: float) -> bool:
    """The session is told to hang up; what is left of it after the grace period is killed. False if out of reach."""
    with opened(leader, first) as handle:
        if handle is None:
            return False
        send_signal(leader, first, signal.SIGHUP)
        await _is_over(handle, grace_s)
        send_signal(leader, first, signal.SIGKILL)
        return True


async def _is_over(handle: int, within_s: float) -> bool:
    over, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(handle, over.set)  # a handle is readable once its process has ended
    try:
        async with asyncio.timeout(within_s):
            await over.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
    return True


def sockets_within(first: int) -> list[socket.socket]:
    """Unconnected TCP sockets (IPv4, IPv6) in the network of the container. OSError if it can't be entered."""
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def make() -> None:
        try:
            _enter_network(first)
            for family in (socket.AF_INET, socket.AF_INET6):
                with suppress(OSError):  # without IPv6
                    made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError as error:
            errors.append(error)

    # Only this thread enters; it ends with its place there.
    thread = threading.Thread(target=make, name="network")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return made


def _enter_network(first: int) -> None:
    descriptor = os.open(_PROC / str(first) / "ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino == (_PROC / "self/ns/net").stat().st_ino:
            raise PermissionError("the container has no network of its own")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _is_within(pid: int, first: int) -> bool:
    own = _namespace("self")
    return _namespace(pid) == _namespace(first) != own


def _namespace(pid: int | str) -> int:
    try:
        return (_PROC / str(pid) / "ns/pid").stat().st_ino
    except OSError:
        return -1 if pid == "self" else 0


def _session(leader: int) -> list[int]:
    """All processes of the session that this one leads."""
    found = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == leader:
                    found.append(int(entry.name))
    return found
