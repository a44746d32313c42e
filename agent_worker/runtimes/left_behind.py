"""Ends commands in containers that took too long: Docker can start them, and has no way to end them."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from docker.errors import NotFound

_PROC = Path("/proc")
# Docker hears of a death a little later.
_HEARD_WITHIN_S = 0.5
_LOOK_AGAIN_S = 0.02


class LeftBehind:
    """Commands that nobody waits for any more. Blocks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def end(self, container_id: str, exec_id: str) -> bool:
        """Whether the command is over: killed, where the agent may do that."""
        if not self.runs(exec_id):
            return True
        kill_in(container_id, int(self._client.exec_inspect(exec_id)["Pid"]))
        until = time.monotonic() + _HEARD_WITHIN_S
        while self.runs(exec_id):
            if time.monotonic() > until:
                return False
            time.sleep(_LOOK_AGAIN_S)
        return True

    def runs(self, exec_id: str) -> bool:
        with suppress(NotFound):
            return bool(self._client.exec_inspect(exec_id)["Running"])
        return False


def kill_in(container_id: str, pid: int) -> None:
    """Kills the process, as the host numbers it, and all that it started, where the agent may.

    Each is held by a descriptor before it is known to belong to the container: a number that was given out anew
    meanwhile, or that means another process to Docker than to the agent, is never hit.
    """
    for one in [pid, *_descendants(pid)]:
        with suppress(OSError):
            _kill(container_id, one)


def _kill(container_id: str, pid: int) -> None:
    held = os.pidfd_open(pid)
    try:
        if container_id in (_PROC / str(pid) / "cgroup").read_text():
            signal.pidfd_send_signal(held, signal.SIGKILL)
    finally:
        os.close(held)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for thread in (_PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found
