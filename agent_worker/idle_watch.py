"""Watches each container that has an idle policy, warns in it, and tells its session's workflow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from agent_worker.idle_label import read_label
from agent_worker.idleness import UNKNOWN_S, Idleness, use_of, warning
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.contract import Runtime
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import IdleReport
from moorage.domain.idle import IdleStage, span
from moorage.domain.node import ContainerSeen
from moorage.domain.stats import KernelIdle, Stats

WARNING_FILE = "/run/moorage/idle-warning"
_LOOK_S = 1.0
_RPC_TIMEOUT = timedelta(seconds=5)

Tell = Callable[[str, IdleReport], Awaitable[None]]
"""A session's workflow gets the report; raises if it may not have."""
_Life = tuple[str, int]  # kernel, attempt
_log = log.get("idle")


def never_used(kernel_id: str) -> float | None:
    return None


@dataclass(slots=True)
class _Watched:
    container: ContainerSeen
    name: str  # of its session
    idleness: Idleness
    stats: Stats | None = None
    used_at: float | None = None


class IdleWatch:
    """`last_use` answers when somebody last used a kernel by hand, on the same monotonic clock; None is not known.

    In memory alone: after a restart of the agent each count begins anew from there, and the workflow is told so.
    """

    def __init__(
        self,
        runtime: Runtime,
        meter: Meter,
        *,
        last_use: Callable[[str], float | None] = never_used,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._meter = meter
        self._last_use = last_use
        self._clock = clock
        self._now = now
        self._watched: dict[_Life, _Watched] = {}
        self._known: set[_Life] | None = None  # whose labels were read
        self._ahead: float | None = None  # of the time of day before the monotonic clock

    async def run(self, tell: Tell) -> None:
        """Looks for ever, until cancelled. A runtime that is away costs time that counts as use."""
        while True:
            try:
                await self.look(tell)
            except Exception as error:
                _log.warning("idle sessions were not looked for", error=f"{type(error).__name__}: {error}"[:200])
            await asyncio.sleep(_LOOK_S)

    async def look(self, tell: Tell) -> None:
        stats = {(one.kernel_id, one.attempt): one.stats for one in self._meter.kernels()}
        await self._find(stats)
        clock = self._clock()
        if self._has_jumped():
            for one in self._watched.values():
                one.idleness.begin_anew()
        for life, one in self._watched.items():
            self._see(one, stats.get(life), clock)
        due = [(one, stage) for one in self._watched.values() if (stage := one.idleness.stage(clock)) is not None]
        await asyncio.gather(*(self._say(one, stage, tell) for one, stage in due))

    def seen(self, session_id: str = "") -> list[KernelIdle]:
        """All that are watched or one session's, as they are now."""
        return [
            self._shown(one)
            for one in self._watched.values()
            if not session_id or one.container.session_id == session_id
        ]

    async def _find(self, stats: Mapping[_Life, Stats | None]) -> None:
        """Labels are read when a container is new. Those that were there at the first look are inherited."""
        if self._known is None or stats.keys() - self._known:
            labelled = await self._runtime.labelled(names.LABEL_IDLE)
            found = {(one.kernel_id, one.attempt): (one, label) for one, label in labelled}
            for life in self._watched.keys() - found.keys():
                del self._watched[life]
            for life in found.keys() - self._watched.keys():
                if (watched := _watched(*found[life], inherited=self._known is None)) is not None:
                    self._watched[life] = watched
            self._known = set(stats) | found.keys()
        # The meter may not have found yet what was never measured.
        for life in [one for one, watched in self._watched.items() if watched.stats is not None and one not in stats]:
            del self._watched[life]

    def _has_jumped(self) -> bool:
        """The host was suspended, or its time was set: what was in between nobody has measured."""
        before, self._ahead = self._ahead, self._now() - self._clock()
        return before is not None and abs(self._ahead - before) > UNKNOWN_S

    def _see(self, one: _Watched, stats: Stats | None, clock: float) -> None:
        used_at = self._last_use(one.container.kernel_id)
        if used_at is not None and used_at != one.used_at:
            one.used_at = used_at
            one.idleness.begin_anew()
        if stats is None or (one.stats is not None and stats.at == one.stats.at):
            return one.idleness.look(clock)
        one.stats = stats
        return one.idleness.see(use_of(stats, len(one.container.devices)), clock)

    async def _say(self, one: _Watched, stage: IdleStage, tell: Tell) -> None:
        """First to the workflow: a warning in the session that nobody heard of would be no warning."""
        dry_run = one.idleness.policy.dry_run
        words = self._words(one, stage)
        report = IdleReport(one.container.kernel_id, one.container.attempt, stage, words, dry_run, self._now())
        try:
            await tell(one.container.session_id, report)
            one.idleness.told(stage, self._clock())
            if stage is not IdleStage.IDLE and not dry_run:
                await self._runtime.write_file(
                    one.container, WARNING_FILE, f"{words}\n" if stage is IdleStage.WARNED else ""
                )
        except Exception as error:
            _log.warning("idle, and not told", session=one.container.session_id, stage=stage, error=str(error)[:200])

    def _words(self, one: _Watched, stage: IdleStage) -> str:
        idleness, clock = one.idleness, self._clock()
        low, lasted = idleness.low(self._cores(one)), _about(idleness.idle_s(clock) or 0.0)
        if stage is IdleStage.ACTIVE:
            return f"is used again: {low}" if low else "is used again, or its use is not known"
        if stage is IdleStage.WARNED:
            until = f"{datetime.fromtimestamp(self._now() + idleness.policy.grace_s, UTC):%H:%M} UTC"
            return warning(low, lasted, until, one.name, dry_run=idleness.policy.dry_run)
        warned = "" if idleness.policy.dry_run else ", and it was warned"
        return f"{low} for {lasted}; {span(idleness.policy.after_s)} are allowed{warned}"

    @staticmethod
    def _cores(one: _Watched) -> float | None:
        return None if one.stats is None or one.stats.cpu_limit is None else one.stats.cpu_limit / 1000

    def _shown(self, one: _Watched) -> KernelIdle:
        clock, idleness = self._clock(), one.idleness
        return KernelIdle(
            one.container.session_id,
            one.container.kernel_id,
            one.container.attempt,
            str(idleness.told_stage or ""),
            idleness.low(self._cores(one)),
            idleness.idle_s(clock),
            idleness.stops_in_s(clock),
        )


def _about(seconds: float) -> str:
    """To the minute, where there are some."""
    return span(seconds - seconds % 60 if seconds >= 120 else seconds)


def teller(client: Client) -> Tell:
    """Tells by signal; a session that is over hears nothing."""

    async def tell(session_id: str, report: IdleReport) -> None:
        try:
            await client.get_workflow_handle(names.session_workflow(session_id)).signal(
                "idle_reported", report, rpc_timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    return tell


def _watched(container: ContainerSeen, label: str, *, inherited: bool) -> _Watched | None:
    """None for a label that can't be read: unknown is not idle."""
    found = read_label(label)
    if found is None:
        _log.warning("an idle policy can't be read", session=container.session_id)
        return None
    policy, name = found
    idleness = Idleness(policy, devices=len(container.devices), inherited=inherited)
    return _Watched(container, name or container.session_id, idleness)
