"""The scheduling loop of a resource group: one long-running activity, woken by the database, fenced by an epoch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from moorage import log
from moorage.contracts.activities import Assignment, SchedulerInput
from moorage.db import ledger
from moorage.db.engine import listening
from moorage.scheduler.decide import decide
from moorage.scheduler.order import ORDERS
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from moorage.session_start import session_input, start_session

# A notification lost with its connection is made up for after so long.
_LOOK_AROUND_S = 2.0
# `assigned` is sent again for sessions that have not moved since they were placed.
_SILENT_S = 3.0
_HEARTBEAT_S = 2.0
_SIGNALS_AT_ONCE = 32

_log = log.get("scheduler")


class Scheduling:
    """The loop, registered as `schedule.<policy>` for each policy."""

    def __init__(self, engine: AsyncEngine, database_url: str, client: Client, seal: Seal) -> None:
        self._engine = engine
        self._database_url = database_url
        self._client = client
        self._seal = seal
        self._signals = asyncio.Semaphore(_SIGNALS_AT_ONCE)

    def activities(self) -> list[Callable[[SchedulerInput], Coroutine[Any, Any, str]]]:
        """One registered activity for each order that exists."""
        return [self._named(order) for order in ORDERS]

    def _named(self, order: str) -> Callable[[SchedulerInput], Coroutine[Any, Any, str]]:
        @activity.defn(name=f"schedule.{order}")
        async def schedule(scheduler: SchedulerInput) -> str:
            return await self.run(scheduler, order)

        return schedule

    async def run(self, scheduler: SchedulerInput, order: str) -> str:
        """Passes until the group's policy changes (its new name is returned) or another scheduler takes over."""
        group = scheduler.resource_group
        epoch = await ledger.take_epoch(self._engine, group)
        figures = {"epoch": epoch, "passes": 0, "waiting": 0, "placed": 0, "last_pass_ms": 0.0}
        beat = asyncio.create_task(_heartbeats(figures))
        try:
            async with listening(self._database_url, ledger.SCHEDULER_CHANNEL) as woken, asyncio.TaskGroup() as signals:
                while True:
                    policy, selector = await ledger.group_policy(self._engine, group)
                    if policy != order:
                        return policy
                    await self._pass(group, epoch, Policy(order, selector), figures, signals)
                    await self._resend(group, signals)
                    await _wait_for(woken, group)
        except* ledger.StaleEpoch as stale:
            raise ApplicationError(str(stale.exceptions[0]), type="stale-epoch") from None
        finally:
            beat.cancel()

    async def _pass(
        self, group: str, epoch: int, policy: Policy, figures: dict[str, float], signals: asyncio.TaskGroup
    ) -> None:
        began = time.perf_counter()
        snapshot = await ledger.read_snapshot(self._engine, group)
        if not snapshot.waiting:
            figures["waiting"] = 0
            return
        decisions = decide(snapshot, policy)
        if decisions.placements:
            placed = await ledger.commit_placements(self._engine, group, epoch, decisions.placements, self._seal)
            for one in placed:
                signals.create_task(self._assign(one))
            figures["placed"] += len(placed)
        await ledger.note_refusals(self._engine, decisions.refusals)
        figures["passes"] += 1
        figures["waiting"] = len(decisions.refusals)
        figures["last_pass_ms"] = round((time.perf_counter() - began) * 1000, 1)

    async def _resend(self, group: str, signals: asyncio.TaskGroup) -> None:
        for one in await ledger.scheduled_but_silent(self._engine, group, _SILENT_S, self._seal):
            signals.create_task(self._assign(one))

    async def _assign(self, placed: ledger.Assigned) -> None:
        """Tells the session where it runs. If Temporal is away, `_resend` tries again."""
        async with self._signals:
            try:
                await start_session(
                    self._client,
                    session_input(placed.row),
                    signal=("assigned", [Assignment(placed.row["attempt"], placed.kernels)]),
                )
            except Exception as error:
                _log.warning("assigned not delivered", session=str(placed.row["id"]), error=str(error))


async def _heartbeats(figures: dict[str, float]) -> None:
    while True:
        activity.heartbeat(dict(figures))
        await asyncio.sleep(_HEARTBEAT_S)


async def _wait_for(woken: asyncio.Queue[str], group: str) -> None:
    """Returns when the group was notified, the connection is gone, or it is time to look around."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LOOK_AROUND_S):
            while True:
                payload = await woken.get()
                if payload not in (group,):
                    if payload.startswith("\0"):
                        raise ConnectionError("PostgreSQL closed the connection")
                    continue
                while not woken.empty():
                    woken.get_nowait()
                return
