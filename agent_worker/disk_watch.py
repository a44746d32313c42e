"""Holds containers to a limit of what they write to their own disk, where the storage driver can't: most of them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from agent_worker.runtimes.contract import Runtime
from moorage import log
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import MEM, format_slot
from moorage.domain.session import KernelExit

_LOOK_S = 10.0
# A look walks through all that the containers wrote: it may take a twentieth of the time.
_PAUSES = 20
_KEPT = 1000

_log = log.get("disk")


class DiskWatch:
    """Kills what has written more than `limit` bytes, and remembers why until the exit is told. 0 watches nothing."""

    def __init__(self, runtime: Runtime, limit: int, *, look_s: float = _LOOK_S) -> None:
        self._runtime = runtime
        self._limit = limit
        self._look_s = look_s
        self._causes: dict[tuple[str, int], str] = {}

    def explained(self, exit: KernelExit) -> KernelExit:
        """With the reason, if it was this watch that ended it."""
        return replace(exit, over_disk=self._causes.get((exit.kernel_id, exit.attempt), ""))

    async def run(self) -> None:
        """Until cancelled."""
        if self._limit <= 0:
            await asyncio.Event().wait()
        while True:
            began = time.monotonic()
            try:
                await self.look()
            except Exception as error:  # the runtime is away; the next look tries again
                _log.warning("disk use not looked at", error=str(error)[:200])
            await asyncio.sleep(max(self._look_s, (time.monotonic() - began) * _PAUSES))

    async def look(self) -> None:
        for container, written in await self._runtime.written():
            if written > self._limit:
                await self._end(container, written)

    async def _end(self, container: ContainerSeen, written: int) -> None:
        """The cause first: the exit may be told before the stop is done."""
        words = (
            f"it wrote {format_slot(MEM, written)} to its disk, more than the {format_slot(MEM, self._limit)}"
            " that its node allows"
        )
        while len(self._causes) >= _KEPT:
            del self._causes[next(iter(self._causes))]
        self._causes[container.kernel_id, container.attempt] = words
        _log.warning("killed for its disk use", session=container.session_id, bytes=written)
        await self._runtime.stop(container, 0)
