"""The node's own fence: cut off for too long, it stops what starts elsewhere then.

What it stopped is remembered over a restart. Such an end is the node's doing and not the program's: the session hears
of a lost node, and goes on elsewhere.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from agent_worker.runtimes.contract import Runtime
from moorage import log
from moorage.domain.node import ContainerSeen

# The control plane counts from the last heartbeat, which may be this much older than the last contact.
BEAT_S = 5.0
_ALONE_S = 0.5

_log = log.get("fence")
_Life = tuple[str, int]  # kernel, attempt


def uptime() -> float:
    """Seconds, with those for which the machine slept: its sessions may have been moved meanwhile."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Fence:
    def __init__(
        self,
        runtime: Runtime,
        file: Path | None = None,
        *,
        clock: Callable[[], float] = uptime,
    ) -> None:
        """Without a file what was stopped is kept in memory alone."""
        self._runtime = runtime
        self._file = file
        self.now = clock
        self._heard_at = clock()
        self._stopped = _load(file)

    async def hold(self, heard_at: float | None, *, after_s: float) -> None:
        """To be called after each try to reach the control plane: `heard_at` is when it began, None if it failed.

        Without contact for `after_s` seconds it is cut off. So is an agent that was itself away (stopped, or its
        machine asleep), though it never failed.
        """
        if self.now() - self._heard_at > after_s and not await self._stop():
            return  # contact counts when they are stopped
        if heard_at is not None:
            self._heard_at = heard_at - BEAT_S
            await self._forget_running()

    async def alone(self, *, after_s: float) -> None:
        """Until cancelled: an agent that was started while it is cut off has nobody to try."""
        while True:
            await self.hold(None, after_s=after_s)
            await asyncio.sleep(_ALONE_S)

    def has_stopped(self, kernel_id: str, attempt: int) -> bool:
        return (kernel_id, attempt) in self._stopped

    def marked(self, containers: Iterable[ContainerSeen]) -> list[ContainerSeen]:
        """All of the node's containers, those that were stopped here marked as such. What is gone is forgotten."""
        seen = [replace(one, fenced=_life(one) in self._stopped and one.state == "exited") for one in containers]
        self._keep(self._stopped & {_life(one) for one in seen})
        return seen

    async def _stop(self) -> bool:
        """False while the runtime is away."""
        try:
            containers = await self._runtime.requeued_elsewhere()
            # Noted first: a kill that nobody noted would be taken for the program's end.
            self._keep(self._stopped | {_life(one) for one in containers})
            for container in containers:
                _log.warning("fenced: no contact, its session starts elsewhere", session=container.session_id)
            await asyncio.gather(*(self._runtime.stop(container, 0) for container in containers))
        except Exception as error:
            _log.error("not fenced yet", error=str(error)[:200])
            return False
        return True

    async def _forget_running(self) -> None:
        """An agent that died between the note and the kill: those go on, and end by themselves."""
        if self._stopped:
            try:
                running = {_life(one) for one in await self._runtime.requeued_elsewhere()}
                self._keep(self._stopped - running)
            except Exception as error:
                _log.warning("not known what runs", error=str(error)[:200])

    def _keep(self, stopped: set[_Life]) -> None:
        if stopped != self._stopped:
            self._stopped = stopped
            _save(self._file, stopped)


def _life(container: ContainerSeen) -> _Life:
    return container.kernel_id, container.attempt


def _load(file: Path | None) -> set[_Life]:
    try:
        said = json.loads(file.read_bytes()) if file is not None and file.exists() else []
        return {(str(kernel_id), int(attempt)) for kernel_id, attempt in said}
    except (OSError, ValueError, TypeError) as error:
        _log.warning("what was fenced can't be read", error=str(error)[:200])
        return set()


def _save(file: Path | None, stopped: Iterable[_Life]) -> None:
    if file is None:
        return
    try:
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(sorted(stopped)))
        partial.replace(file)
    except OSError as error:
        _log.warning("what was fenced is not kept over a restart", error=str(error)[:200])
