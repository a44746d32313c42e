"""One supervised child process."""

from __future__ import annotations

import asyncio
import ctypes
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from moorage.cli.up.state import PartState, birth_of
from moorage.domain.errors import Unavailable

_PR_SET_PDEATHSIG = 1
_LARGEST_LOG = 10 * 1024 * 1024
_GRACE_S = 10.0
_SHORTEST_S, _LONGEST_S = 0.2, 5.0
_STEADY_S = 30.0  # a part that lived this long starts its back-off anew
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(slots=True)
class Part:
    """A process that is started again when it dies. On Linux it never outlives the supervisor."""

    name: str
    argv: list[str]
    log: Path
    cwd: Path
    env: dict[str, str]
    uid: int | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    state: PartState = field(init=False)
    _process: asyncio.subprocess.Process | None = None

    def __post_init__(self) -> None:
        self.state = PartState(self.name)

    async def start(self) -> None:
        """The process exists. Call it from the main thread only: PDEATHSIG follows the thread that forked."""
        _rotate(self.log)
        try:
            with self.log.open("ab") as log:
                self._process = await self._spawn(log)
        except OSError as error:
            raise Unavailable(f"{self.name} can't be started: {error}") from None
        self.state.pid = self._process.pid
        self.state.born = birth_of(self._process.pid)

    @property
    def dead(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def keep_alive(self, *, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        """Starts it again each time it ends, until cancelled."""
        delay = _SHORTEST_S
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            delay = _SHORTEST_S if time.monotonic() - began > _STEADY_S else delay
            say(f"{self.name} ended with {code}; starting it again in {delay:g} s (log: {self.log})")
            await asyncio.sleep(delay)
            delay = min(delay * 2, _LONGEST_S)
            self.state.restarts += 1
            try:
                await self.start()
            except Unavailable as error:
                say(error.message)
            changed()

    async def stop(self) -> None:
        """The process is gone: asked, and after 10 s killed with its whole group."""
        if self._process is None or self._process.returncode is not None:
            return
        self._signal(self.stop_signal)
        try:
            await asyncio.wait_for(self._process.wait(), _GRACE_S)
        except TimeoutError:
            os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    def last_words(self, lines: int = 8) -> str:
        try:
            text = self.log.read_bytes()[-4000:].decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    async def _spawn(self, log: BinaryIO) -> asyncio.subprocess.Process:
        user: dict[str, Any] = {}
        if self.uid is not None:
            user = {"user": self.uid, "group": pwd.getpwuid(self.uid).pw_gid, "extra_groups": []}
        return await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.cwd,
            env=self.env,
            start_new_session=True,
            umask=0o077,
            preexec_fn=tied_to(os.getpid(), self.orphan_signal),
            **user,
        )

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            pass


def tied_to(parent: int, number: signal.Signals) -> Callable[[], None]:
    """To be called in a new process: it gets the signal when its parent dies (on Linux)."""

    def tie() -> None:
        if _libc is None:
            return
        _libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            os._exit(1)

    return tie


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
