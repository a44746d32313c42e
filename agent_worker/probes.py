"""Checks containers: each by a start probe until it succeeds, then by a liveness probe; and tells what came of it.

A container that is unhealthy is told once and checked no more: whether its session ends or starts again, it goes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from agent_worker.last_words import last_line, telling, without
from agent_worker.runtimes.contract import Checked, CreateRefused, GoesOn, Runtime
from moorage import log
from moorage.contracts.activities import HealthChange
from moorage.domain.health import Health, HealthCheck, Probe
from moorage.domain.node import ContainerSeen

# Until it has succeeded once, a container is asked so often.
_START_EVERY_S = 1.0
# So many probes at once, of all containers together; the others wait, and that counts for none of them.
_AT_ONCE = 8
_AGAIN_S = 1.0

_log = log.get("probes")
_T = TypeVar("_T")
Tell = Callable[[str, HealthChange], Awaitable[None]]


class Clock:
    """Seconds that tests may count themselves."""

    def now(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class _Watched:
    container: ContainerSeen
    check: HealthCheck
    since: float  # when it started, by the clock
    came_back: bool  # it ran already when this agent started
    left: Callable[[], Awaitable[bool]] | None = None  # whether a command that could not be ended still runs
    values: set[str] | None = field(default=None, repr=False)  # what it was given; asked for when first needed


class Prober:
    """`tell` delivers to a session, however long that takes."""

    def __init__(self, runtime: Runtime, tell: Tell, *, clock: Clock | None = None) -> None:
        self._runtime = runtime
        self._tell = tell
        self._clock = clock or Clock()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._ill: set[tuple[str, int]] = set()

    def begin(self, seen: Checked, *, came_back: bool = False) -> None:
        """The container is checked until it is ill or `end`. Once is enough; more does nothing."""
        key = (seen.container.kernel_id, seen.container.attempt)
        if key not in self._tasks:
            watched = _Watched(seen.container, seen.check, self._clock.now() - seen.age_s, came_back)
            self._tasks[key] = asyncio.create_task(self._watch(watched))

    def end(self, kernel_id: str, attempt: int) -> bool:
        """The kernel is checked no more, up to this attempt. Whether this attempt was told to be ill."""
        for key in [key for key in self._tasks if key[0] == kernel_id and key[1] <= attempt]:
            self._tasks.pop(key).cancel()
        ill = (kernel_id, attempt) in self._ill
        self._ill = {key for key in self._ill if key[0] != kernel_id or key[1] > attempt}
        return ill

    async def run(self) -> None:
        """Goes on with those that an earlier process of this agent has begun, until cancelled."""
        try:
            for seen in await self._insist(self._runtime.checked):
                self.begin(seen, came_back=True)
            await asyncio.Event().wait()
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _watch(self, watched: _Watched) -> None:
        start, live = watched.check.start or watched.check.live, watched.check.live
        ill = await self._until_ready(watched, start) if start is not None else ""
        if not ill:
            await self._say(watched, Health.HEALTHY, self._ready(watched))
            if live is None:
                return
            ill = await self._until_ill(watched, live)
        # A container that has ended is no patient: its end is told in another way.
        if await self._insist(lambda: self._still_runs(watched)):
            self._ill.add((watched.container.kernel_id, watched.container.attempt))
            await self._say(watched, Health.UNHEALTHY, ill)

    async def _until_ready(self, watched: _Watched, probe: Probe) -> str:
        """Empty as soon as it is; else why not. One that came back late gets as many tries as a liveness probe has."""
        within_s = watched.check.start_within_s
        late = watched.came_back and self._clock.now() - watched.since > within_s
        tries, least = 0, probe.failures if late else 1
        while True:
            failure = await self._try(watched, probe)
            if failure == "":
                return ""
            tries += failure is not None
            if tries >= least and self._clock.now() - watched.since >= within_s:
                return f"not ready within {within_s:g} s: {failure}"
            await self._clock.sleep(min(_START_EVERY_S, probe.every_s))

    async def _until_ill(self, watched: _Watched, probe: Probe) -> str:
        """Why it is, in the end."""
        failures = 0
        while True:
            await self._clock.sleep(probe.every_s)
            failure = await self._try(watched, probe)
            if failure is not None:
                failures = failures + 1 if failure else 0
            if failure and failures >= probe.failures:
                return failure if failures == 1 else f"{failure} ({failures} times in a row)"

    async def _try(self, watched: _Watched, probe: Probe) -> str | None:
        """Empty for success, else what was wrong; None if nobody could say."""
        async with self._slots:
            try:
                return await (self._knock(watched, probe) if probe.port else self._ask(watched, probe))
            except Exception as error:  # the runtime is away: that says nothing of the container
                _log.warning("not checked", session=watched.container.session_id, error=str(error)[:200])
                return None

    async def _knock(self, watched: _Watched, probe: Probe) -> str:
        accepted = await self._runtime.connects(watched.container, probe.port, probe.timeout_s)
        return "" if accepted else f"port {probe.port} accepts no connection"

    async def _ask(self, watched: _Watched, probe: Probe) -> str:
        if watched.left is not None and await watched.left():
            return f"no answer within {probe.timeout_s:g} s, and the command still runs"
        watched.left = None
        try:
            result = await self._runtime.execute(watched.container, probe.command, probe.timeout_s)
        except CreateRefused as refusal:
            return f"the command can't be run: {without(str(refusal), telling(await self._given(watched)))[:300]}"
        except TimeoutError as late:
            watched.left = late.runs if isinstance(late, GoesOn) else None
            return f"no answer within {probe.timeout_s:g} s"
        if result.exit_code == 0:
            return ""
        said = last_line((result.stderr.strip() or result.stdout).encode(), await self._given(watched))
        return f"exit code {result.exit_code}" + (f": {said}" if said else "")

    async def _given(self, watched: _Watched) -> set[str]:
        if watched.values is None:
            watched.values = await self._runtime.given(watched.container)
        return watched.values

    async def _still_runs(self, watched: _Watched) -> bool:
        found = await self._runtime.containers()
        return any(one.container_id == watched.container.container_id and one.state == "running" for one in found)

    def _ready(self, watched: _Watched) -> str:
        """Of one that came back nobody knows when it was."""
        return "answers" if watched.came_back else f"ready after {self._clock.now() - watched.since:.1f} s"

    async def _say(self, watched: _Watched, health: Health, words: str) -> None:
        container = watched.container
        change = HealthChange(container.kernel_id, container.attempt, health, words, at=time.time())
        _log.info("health", session=container.session_id, kernel=container.kernel_id, health=str(health))
        await self._tell(container.session_id, change)

    async def _insist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        while True:
            try:
                return await ask()
            except Exception as error:
                _log.warning("the runtime is away", error=str(error)[:200])
                await self._clock.sleep(_AGAIN_S)
