"""Whether a container's port accepts connections, asked from within its network namespace."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

_CLONE_NEWNET = 0x40000000
_SIOCGIFADDR = 0x8915
_LOOPBACK = ("127.0.0.1", "::1")


def accepts(pid: int, addresses: Sequence[str], port: int, timeout_s: float) -> bool:
    """Blocks. Asks the container's loopback addresses from within, then those of its interfaces.

    Many servers listen at the loopback address alone. An agent that may not enter namespaces (it needs root) asks
    `addresses` from outside.
    """
    answers: list[bool] = []
    until = time.monotonic() + timeout_s

    def ask() -> None:
        candidates = [*_LOOPBACK, *_addresses()] if _enter(pid) else addresses
        answers.append(any(_connects(one, port, until) for one in candidates))

    # A thread of its own, which ends in the namespace that it has entered; no other one is moved.
    thread = threading.Thread(target=ask, daemon=True, name="port-probe")
    thread.start()
    thread.join()
    return answers == [True]


def _enter(pid: int) -> bool:
    try:
        namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return bool(_libc().setns(namespace, _CLONE_NEWNET) == 0)
    finally:
        os.close(namespace)


def _addresses() -> list[str]:
    """IPv4, of the interfaces in this thread's namespace."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without one
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if address not in _LOOPBACK]


def _connects(address: str, port: int, until: float) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as asking:
        asking.settimeout(max(0.01, until - time.monotonic()))
        asking.connect((address, port))
        return True
    return False


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)
