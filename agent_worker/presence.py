"""The node's voice: registration, heartbeats, reports, exits, and the fence when it is cut off."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from agent_worker.images.node import NodeImages
from agent_worker.inventory import Inventory
from agent_worker.runtimes.contract import Exited, Runtime
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import AgentReport, Presence, PresenceActivities
from moorage.contracts.shown import Shown
from moorage.domain.node import AgentInfo, ContainerSeen
from moorage.domain.pulls import NodeImage

_BEAT_S = 5.0
_REPORT_S = 10.0
_REPORT_UNCHANGED_S = 60.0
# Images that are only used again are told so seldom: each report stays in a history.
_USES_S = 600.0
# Without a presence activity for so long, the control plane has given this process up: register again.
_UNHELD_S = 12.0
_RPC_TIMEOUT = timedelta(seconds=5)
_CONTACT_S = 2.0
_CONTACT_TIMEOUT = timedelta(seconds=2)

_log = log.get("presence")


class NodePresence(PresenceActivities):
    def __init__(
        self,
        client: Client,
        runtime: Runtime,
        info: Callable[[list[ContainerSeen], list[str]], AgentInfo],
        inventory: Inventory,
        images: NodeImages | None = None,
    ) -> None:
        self._client = client
        self._runtime = runtime
        self._info = info
        self._inventory = inventory
        self._images = images or NodeImages(runtime.store)
        self._agent_id = info([], []).agent_id
        self._incarnation = info([], []).incarnation
        self._held_at = -math.inf  # monotonic; when a presence activity last beat
        self._contact_at = time.monotonic()
        self._seen = 0

    @activity.defn
    async def hold_presence(self, presence: Presence) -> None:
        if presence.incarnation != self._incarnation:
            return  # meant for an earlier process of this agent
        while True:
            # The count is the last report's: a beat never waits for the runtime, whose restart is no node's loss.
            activity.heartbeat({"containers": self._seen, "load": os.getloadavg()[0], "at": time.time()})
            self._held_at = time.monotonic()
            await asyncio.sleep(_BEAT_S)

    async def run(self, *, fence_s: float) -> None:
        """All that the node says, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stay_registered())
            group.create_task(self._report_changes())
            group.create_task(self._tell_exits(group))
            group.create_task(self._fence(fence_s))

    async def _stay_registered(self) -> None:
        while True:
            if time.monotonic() - self._held_at > _UNHELD_S:
                await self._patiently(self._register)
                self._held_at = time.monotonic()
            await asyncio.sleep(1.0)

    async def _register(self) -> None:
        info = self._info(await self._runtime.containers(), await self._images.names())
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

        A device's health is told at once: what it costs until then is a job's whole gang. So is a pulled image.
        """
        said: object = None
        said_at = 0.0
        told = _ToldImages()
        while True:
            # Not wait_for: before Python 3.12 it loses a cancel that comes with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._inventory.changed.wait()
            self._inventory.changed.clear()
            try:
                devices = self._inventory.devices
                containers = await self._runtime.containers()
                self._seen = len(containers)
                images, seen = await self._images.seen()
                details = told.worth_telling(seen)
                digest = sorted((one.kernel_id, one.attempt, one.state) for one in containers), images, devices
                if digest == said and not details and time.monotonic() - said_at < _REPORT_UNCHANGED_S:
                    continue
                await self._client.get_workflow_handle(names.agent_workflow(self._agent_id)).signal(
                    "report",
                    AgentReport(self._agent_id, self._incarnation, containers, images, devices, details),
                    rpc_timeout=_RPC_TIMEOUT,
                )
                said, said_at = digest, time.monotonic()
                told.were_told(details)
            except Exception as error:
                _log.warning("report not delivered", error=str(error)[:200])

    async def _tell_exits(self, group: asyncio.TaskGroup) -> None:
        async for exited in self._runtime.exits():
            group.create_task(self._patiently(lambda exited=exited: self._tell(exited)))  # type: ignore[misc]

    async def _tell(self, exited: Exited) -> None:
        try:
            await self._client.get_workflow_handle(names.session_workflow(exited.session_id)).signal(
                "kernel_exited", exited.exit, rpc_timeout=_RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # the session is over
                raise

    async def _fence(self, fence_s: float) -> None:
        """Cut off for longer than the fence time: sessions that start elsewhere must not go on here."""
        while True:
            began = time.monotonic()
            try:
                await self._client.service_client.check_health(timeout=_CONTACT_TIMEOUT)
                # The control plane counts from the last heartbeat, which may be this much older.
                self._contact_at = began - _BEAT_S
            except (RPCError, RuntimeError):
                if time.monotonic() - self._contact_at > fence_s:
                    await self._stop_requeued()
            await asyncio.sleep(_CONTACT_S)

    async def _stop_requeued(self) -> None:
        try:
            containers = await self._runtime.requeued_elsewhere()
            for container in containers:
                _log.warning("fenced: no contact, its session starts elsewhere", session=container.session_id)
            await asyncio.gather(*(self._runtime.stop(container, 0) for container in containers))
        except Exception as error:  # the runtime is away; the next round tries again
            _log.error("not fenced yet", error=str(error)[:200])

    async def _patiently(self, step: Callable[[], object]) -> None:
        """Again and again until it is done: Temporal may be away."""
        delay = 0.2
        while True:
            try:
                await step()  # type: ignore[misc]
                return
            except Exception as error:
                _log.warning("waiting for Temporal", error=str(error)[:200])
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)


class _ToldImages:
    """What was said of the images last: they are many, and mostly the same."""

    def __init__(self) -> None:
        self._told: list[NodeImage] = []
        self._at = -math.inf

    def worth_telling(self, details: list[NodeImage]) -> list[NodeImage]:
        """Empty if they are as before, but for when they were used."""
        changed = _without_uses(details) != _without_uses(self._told)
        used = details != self._told and time.monotonic() - self._at > _USES_S
        return details if changed or used else []

    def were_told(self, details: list[NodeImage]) -> None:
        if details:
            self._told, self._at = details, time.monotonic()


def _without_uses(details: list[NodeImage]) -> list[NodeImage]:
    return [replace(one, last_used=0.0) for one in details]
