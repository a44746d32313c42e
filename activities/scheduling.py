"""The scheduling loop of a resource group: one long-running activity, woken by the database, fenced by an epoch."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from moorage import log, plugins
from moorage.contracts.activities import Assignment, Cancel, Preempt, SchedulerInput
from moorage.db import groups, ledger, passes, placements
from moorage.db.engine import CONNECTION_LOST, listening
from moorage.db.snapshots import View
from moorage.domain.network import DEFAULT_POOL
from moorage.domain.session import Reason
from moorage.scheduler.order import Sharing
from moorage.scheduler.planner import Planner
from moorage.scheduler.simulate import expected_start
from moorage.scheduler.snapshot import Decisions, Policy, PreemptionMode, Refusal, Snapshot
from moorage.seal import Seal
from moorage.session_start import session_input, start_session

# A notification lost with its connection is made up for after so long.
_LOOK_AROUND_S = 2.0
# `assigned` is sent again for sessions that have not moved since they were placed.
_SILENT_S = 3.0
_HEARTBEAT_S = 2.0
_SIGNALS_AT_ONCE = 32
# How often waiting sessions without one get an estimate of their start, and how many at once.
_ESTIMATE_EVERY_S = 15.0
_ESTIMATES_AT_ONCE = 10

_log = log.get("scheduler")


class Scheduling:
    """The loop, registered as `schedule.<policy>` for each policy, built in or plugged in."""

    def __init__(
        self,
        engine: AsyncEngine,
        database_url: str,
        client: Client,
        seal: Seal,
        *,
        network_pool: str = DEFAULT_POOL,
    ) -> None:
        self.engine = engine
        self.network_pool = network_pool
        self._database_url = database_url
        self._client = client
        self.seal = seal
        self._signals = asyncio.Semaphore(_SIGNALS_AT_ONCE)
        self._orders = plugins.orders()
        self._selectors = plugins.selectors()

    def activities(self) -> list[Callable[[SchedulerInput], Coroutine[Any, Any, str]]]:
        """One registered activity for each order that exists."""
        return [self._named(order) for order in self._orders]

    def _named(self, order: str) -> Callable[[SchedulerInput], Coroutine[Any, Any, str]]:
        @activity.defn(name=f"schedule.{order}")
        async def schedule(scheduler: SchedulerInput) -> str:
            return await self.run(scheduler, order)

        return schedule

    async def run(self, scheduler: SchedulerInput, order: str) -> str:
        """Passes until the group's policy changes (its new name is returned) or another scheduler takes over.

        Returns "" when the group was removed.
        """
        group = scheduler.resource_group
        figures = {"epoch": 0.0, "passes": 0.0, "waiting": 0.0, "placed": 0.0, "last_pass_ms": 0.0}
        beat = asyncio.create_task(_heartbeats(figures))
        try:
            figures["epoch"] = await placements.take_epoch(self.engine, group)
            async with listening(self._database_url, ledger.SCHEDULER_CHANNEL) as woken, asyncio.TaskGroup() as beside:
                loop = _Loop(self, group, int(figures["epoch"]), figures, beside)
                while True:
                    policy = await groups.policy_in_force(self.engine, group)
                    if policy is None:
                        return ""
                    if policy.order != order:
                        return policy.order
                    await loop.turn(policy)
                    await _wait_for(woken, group)
        except* placements.StaleEpoch as stale:
            raise ApplicationError(str(stale.exceptions[0]), type="stale-epoch") from None
        finally:
            beat.cancel()

    def planner(self, snapshot: Snapshot, policy: Policy) -> Planner:
        return Planner(snapshot, policy, orders=self._orders, selectors=self._selectors)

    async def assign(self, placed: placements.Assigned) -> None:
        await self._tell(placed.row, "assigned", Assignment(placed.row["attempt"], placed.kernels))

    async def cancel(self, row: Any, reason: Reason, message: str) -> None:
        await self._tell(row, "cancel", Cancel(reason, "scheduler", message=message))

    async def preempt(self, victim: placements.Victim) -> None:
        words = f"its room is needed by {victim.for_name} ({victim.for_session[:8]}), which has a higher job priority"
        row = await ledger.start_row(self.engine, victim.session_id)
        await self._tell(row, "preempt", Preempt(victim.attempt, victim.requeue, words))

    async def _tell(self, row: Any, signal: str, message: object) -> None:
        """Tells the session's workflow. If Temporal is away, a later turn tells it again."""
        async with self._signals:
            try:
                await start_session(self._client, session_input(row), signal=(signal, [message]))
            except Exception as error:
                _log.warning("not delivered", signal=signal, session=str(row["id"]), error=str(error)[:200])


class _Loop:
    """What one run of the activity remembers between its passes: nothing that a successor would miss."""

    def __init__(
        self, scheduling: Scheduling, group: str, epoch: int, figures: dict[str, float], beside: asyncio.TaskGroup
    ) -> None:
        self._scheduling = scheduling
        self._engine = scheduling.engine
        self._group = group
        self._epoch = epoch
        self._figures = figures
        self._beside = beside
        self._view: View | None = None
        self._planner: Planner | None = None
        self._noted: dict[str, Refusal] = {}
        self._unmet: set[str] = set()
        self._causes: Counter[str] = Counter()
        self._estimated_at = 0.0
        self._estimating: asyncio.Task[None] | None = None

    async def turn(self, policy: Policy) -> None:
        """One pass, and whoever must hear of it is told."""
        began = time.perf_counter()
        planner, now = await self._up_to_date(policy)
        self._figures["waiting"] = len(planner.waiting)
        if planner.waiting:
            await self._pass(planner, now, began)
        for one in await placements.scheduled_but_silent(self._engine, self._group, _SILENT_S, self._scheduling.seal):
            self._beside.create_task(self._scheduling.assign(one))

    async def _up_to_date(self, policy: Policy) -> tuple[Planner, float]:
        """Read whole at first and under another policy, else only what changed."""
        if self._planner is not None and self._view is not None and self._planner.policy == policy:
            now, changes = await self._view.changes()
            self._unmet -= {*changes.removed_waiting, *(one.session_id for one in changes.waiting)}
            self._unmet |= {one.session_id for one in changes.waiting if one.unmet}
            await asyncio.to_thread(self._planner.apply, changes)
            return self._planner, now
        shares = isinstance(plugins.orders()[policy.order], Sharing)
        self._view = View(self._engine, self._group, half_life_s=policy.half_life_s if shares else None)
        snapshot = await self._view.whole()
        self._unmet = {one.session_id for one in snapshot.waiting if one.unmet}
        self._planner = await asyncio.to_thread(self._scheduling.planner, snapshot, policy)
        return self._planner, snapshot.now

    async def _pass(self, planner: Planner, now: float, began: float) -> None:
        decisions = await asyncio.to_thread(planner.decide, now)
        requeue = planner.policy.preemption is PreemptionMode.REQUEUE
        placed = await placements.commit_decisions(
            self._engine,
            self._group,
            self._epoch,
            decisions,
            self._scheduling.seal,
            requeue_victims=requeue,
            network_pool=self._scheduling.network_pool,
        )
        for one in placed:
            self._beside.create_task(self._scheduling.assign(one))
        took_ms = round((time.perf_counter() - began) * 1000, 1)
        self._figures["passes"] += 1
        self._figures["placed"] += len(placed)
        self._figures["last_pass_ms"] = took_ms
        await self._note(decisions.refusals)
        await self._tell_others(planner, decisions)
        causes = Counter(str(refusal.cause) for refusal in decisions.refusals)
        if placed or decisions.preemptions or causes != self._causes:
            self._causes = causes
            seen = planner.snapshot()
            await passes.keep(
                self._engine,
                self._group,
                self._epoch,
                seen,
                planner.policy,
                decisions,
                placed=len(placed),
                took_ms=took_ms,
            )
        self._estimate(planner)

    async def _note(self, refusals: Sequence[Refusal]) -> None:
        """Why each waits, where that is not what was written last."""
        noted = {refusal.session_id: refusal for refusal in refusals}
        await placements.note_refusals(
            self._engine, [one for one in refusals if self._noted.get(one.session_id) != one]
        )
        self._noted = noted

    async def _tell_others(self, planner: Planner, decisions: Decisions) -> None:
        """Those who must make way, and those whose dependency has failed: again and again until they have gone."""
        if planner.holds or decisions.preemptions:
            for victim in await placements.victims(self._engine, self._group):
                self._beside.create_task(self._scheduling.preempt(victim))
        if self._unmet:
            for row, failed in await placements.with_failed_dependencies(self._engine, self._group):
                words = f"session {failed}, on which it depends, did not succeed"
                self._beside.create_task(self._scheduling.cancel(row, Reason.DEPENDENCY_FAILED, words))

    def _estimate(self, planner: Planner) -> None:
        """Now and then, beside the passes: when will those start that have waited for a while?"""
        busy = self._estimating is not None and not self._estimating.done()
        if not busy and time.monotonic() - self._estimated_at > _ESTIMATE_EVERY_S:
            self._estimated_at = time.monotonic()
            self._estimating = self._beside.create_task(self._estimate_some(planner.snapshot(), planner.policy))

    async def _estimate_some(self, snapshot: Snapshot, policy: Policy) -> None:
        try:
            lacking = await passes.without_estimate(self._engine, self._group, _ESTIMATES_AT_ONCE)
            history = await passes.past_run_times(self._engine, self._group)
            for session_id in lacking:
                found = await asyncio.to_thread(self._expected, snapshot, policy, session_id, history)
                if found is not None:
                    p50, p90 = (snapshot.now + seconds for seconds in found)
                    await passes.keep_estimate(self._engine, self._group, session_id, p50, p90)
        except Exception as error:
            _log.warning("no estimates this time", error=str(error)[:200])

    def _expected(
        self, snapshot: Snapshot, policy: Policy, session_id: str, history: Sequence[float]
    ) -> tuple[float, float] | None:
        if all(one.session_id != session_id for one in snapshot.waiting):
            return None
        registries: dict[str, Any] = {"orders": plugins.orders(), "selectors": plugins.selectors()}
        return expected_start(snapshot, policy, session_id, history, seed=1, **registries)


async def _heartbeats(figures: dict[str, float]) -> None:
    while True:
        activity.heartbeat(dict(figures))
        await asyncio.sleep(_HEARTBEAT_S)


async def _wait_for(woken: asyncio.Queue[str], group: str) -> None:
    """Returns when the group was notified, the connection is gone, or it is time to look around."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_AROUND_S):
            while (payload := await woken.get()) != group:
                if payload == CONNECTION_LOST:
                    raise ConnectionError("PostgreSQL closed the connection")
            while not woken.empty():
                woken.get_nowait()
