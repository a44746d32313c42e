"""The node's voice: registration, heartbeats, reports, exits, and the fence when it is cut off."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from agent_worker.fence import BEAT_S, Fence
from agent_worker.inventory import Inventory
from agent_worker.runtimes.contract import Exited, Runtime
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import AgentReport, HealthChange, Presence, PresenceActivities
from moorage.contracts.shown import Shown
from moorage.domain.node import AgentInfo, ContainerSeen
from moorage.domain.session import KernelExit

_REPORT_S = 10.0
_REPORT_UNCHANGED_S = 60.0
# What was missing in the report of a change is believed when it is said again, half a minute later.
_REPORT_AGAIN_S = 35.0
# Without a presence activity for so long, the control plane has given this process up: register again.
_UNHELD_S = 12.0
_RPC_TIMEOUT = timedelta(seconds=5)
_CONTACT_S, _NO_CONTACT_S = 2.0, 0.5
_CONTACT_TIMEOUT = timedelta(seconds=2)

_log = log.get("presence")


class NodePresence(PresenceActivities):
    def __init__(
        self,
        client: Client,
        runtime: Runtime,
        info: Callable[[list[ContainerSeen], list[str]], AgentInfo],
        inventory: Inventory,
        fence: Fence | None = None,
        *,
        explained: Callable[[KernelExit], KernelExit] = lambda exit: exit,
    ) -> None:
        """`explained` adds to an exit what the node knows of its cause."""
        self._client = client
        self._runtime = runtime
        self._info = info
        self._inventory = inventory
        self._explained = explained
        self._agent_id = info([], []).agent_id
        self._incarnation = info([], []).incarnation
        self._fence = fence or Fence(runtime)
        self._held_at = -math.inf  # monotonic; when a presence activity last beat
        self._holding = 0
        self._seen = 0

    @activity.defn
    async def hold_presence(self, presence: Presence) -> None:
        if presence.incarnation != self._incarnation:
            return  # meant for an earlier process of this agent
        self._holding += 1
        try:
            while True:
                # The count is the last report's: a beat never waits for the runtime, whose restart is no node's loss.
                activity.heartbeat({"containers": self._seen, "load": os.getloadavg()[0], "at": time.time()})
                self._held_at = time.monotonic()
                await asyncio.sleep(BEAT_S)
        finally:
            # Given up by the control plane, and no other one holds: register at once.
            self._holding -= 1
            self._held_at = self._held_at if self._holding else -math.inf

    async def run(self, *, fence_s: float) -> None:
        """All that the node says, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_registered())
            group.create_task(self._report_changes())
            group.create_task(self._tell_exits(group))
            group.create_task(self._hold_fence(fence_s))

    async def _stay_registered(self) -> None:
        while True:
            if time.monotonic() - self._held_at > _UNHELD_S:
                await self._patiently(self._register)
                self._held_at = time.monotonic()
            await asyncio.sleep(1.0)

    async def _register(self) -> None:
        info = self._info(await self._containers(), await self._runtime.images())
        self._seen = len(info.containers)
        await self._client.start_workflow(
            "AgentWorkflow",
            args=[self._agent_id],
            id=names.agent_workflow(self._agent_id),
            task_queue=names.CONTROL_QUEUE,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            start_signal="register",
            start_signal_args=[info],
            static_summary=Shown(f"node {self._agent_id}"),
            rpc_timeout=_RPC_TIMEOUT,
        )
        _log.info("registered", agent=self._agent_id, containers=len(info.containers))

    async def _report_changes(self) -> None:
        """Containers, images and devices, when they differ from what was said last; and once a minute in any case.

        A device's health is told at once: what it costs until then is a job's whole gang.
        """
        said: object = None
        said_at, again_s = 0.0, 0.0
        while True:
            # Not wait_for: before Python 3.12 it loses a cancel that comes with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._inventory.changed.wait()
            self._inventory.changed.clear()
            try:
                devices = self._inventory.devices
                containers = await self._containers()
                self._seen = len(containers)
                images = await self._runtime.images()
                digest = sorted((one.kernel_id, one.attempt, one.state) for one in containers), images, devices
                if digest == said and time.monotonic() - said_at < again_s:
                    continue
                await self._client.get_workflow_handle(names.agent_workflow(self._agent_id)).signal(
                    "report",
                    AgentReport(self._agent_id, self._incarnation, containers, images, devices),
                    rpc_timeout=_RPC_TIMEOUT,
                )
                # One that does not run is about to be removed: what it holds is free when that was said.
                settled = all(one.state == "running" for one in containers)
                again_s = (_REPORT_UNCHANGED_S if digest == said else _REPORT_AGAIN_S) if settled else 0.0
                said, said_at = digest, time.monotonic()
            except Exception as error:
                _log.warning("report not delivered", error=str(error)[:200])

    async def _tell_exits(self, group: asyncio.TaskGroup) -> None:
        async for exited in self._runtime.exits():
            group.create_task(self._patiently(lambda exited=exited: self._tell(exited)))  # type: ignore[misc]

    async def _tell(self, exited: Exited) -> None:
        if self._fence.has_stopped(exited.exit.kernel_id, exited.exit.attempt):
            return  # no end of the program's; the next report says what it was
        await self._signal(exited.session_id, "kernel_exited", self._explained(exited.exit))

    async def tell_health(self, session_id: str, change: HealthChange) -> None:
        """However long that takes."""
        await self._patiently(lambda: self._signal(session_id, "health_changed", change))

    async def _signal(self, session_id: str, name: str, message: object) -> None:
        try:
            await self._client.get_workflow_handle(names.session_workflow(session_id)).signal(
                name, message, rpc_timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # the session is over
                raise

    async def _containers(self) -> list[ContainerSeen]:
        return self._fence.marked(await self._runtime.containers())

    async def _hold_fence(self, fence_s: float) -> None:
        """Cut off for longer than the fence time: sessions that start elsewhere must not go on here."""
        while True:
            began: float | None = self._fence.now()
            try:
                await self._client.service_client.check_health(timeout=_CONTACT_TIMEOUT)
            except (RPCError, RuntimeError):
                began = None
            await self._fence.hold(began, after_s=fence_s)
            await asyncio.sleep(_NO_CONTACT_S if began is None else _CONTACT_S)

    async def _patiently(self, step: Callable[[], object]) -> None:
        """Again and again until it is done: Temporal or the runtime may be away."""
        delay = 0.2
        while True:
            try:
                await step()  # type: ignore[misc]
                return
            except Exception as error:
                _log.warning("not done yet", error=f"{type(error).__name__}: {error}"[:200])
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
