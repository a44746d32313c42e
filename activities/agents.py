"""An agent's rows, and what its sessions are told."""

from __future__ import annotations

import time

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.lives import Lives
from moorage import log
from moorage.contracts.activities import AgentActivities, AgentReport, Destroy, NodeLost, Preempt, Verdict
from moorage.db import devices, images, nodes
from moorage.domain.errors import InvalidRequest
from moorage.domain.node import AgentInfo, ContainerSeen
from moorage.domain.session import KernelExit

# A cut-off agent stops its requeue sessions by itself (MOORAGE_AGENT_FENCE_S, 20 s after its last contact). A node is
# LOST 15 s after its last heartbeat, so 10 s later its containers are stopped and may be started elsewhere.
FENCE_MARGIN_S = 10.0

_log = log.get("agents")


class LedgerAgents(AgentActivities):
    """Implements the promises of AgentActivities on PostgreSQL, and signals sessions through `lives`."""

    def __init__(self, engine: AsyncEngine, lives: Lives) -> None:
        self._engine = engine
        self._lives = lives

    async def register_agent(self, info: AgentInfo) -> None:
        try:
            await nodes.register(self._engine, info)
        except InvalidRequest as error:
            raise ApplicationError(error.message, type=error.code, non_retryable=True) from error

    async def reconcile_agent(self, report: AgentReport) -> Verdict:
        difference = await nodes.compare(self._engine, report.agent_id, report.containers)
        for missing in difference.missing:
            exit = KernelExit(missing.kernel_id, missing.attempt, None, gone=True, at=time.time())
            await self._lives.tell(missing.session_id, "kernel_exited", exit)
        for container in difference.ended:
            if container.fenced:
                await self._lives.tell(container.session_id, "node_lost", _fenced_message(report.agent_id))
            else:
                await self._lives.tell(container.session_id, "kernel_exited", _exit_of(container))
        there = [(container.kernel_id, container.attempt) for container in report.containers]
        await nodes.release_fenced(self._engine, report.agent_id, there)
        if report.devices:
            await self._note_health(report)
        if report.images:
            await nodes.note_images(self._engine, report.agent_id, report.images)
        if report.image_details:
            await images.note_details(self._engine, report.agent_id, report.image_details)
        return Verdict([Destroy(one.session_id, one.kernel_id, one.attempt, 0.0) for one in difference.unexpected])

    async def _note_health(self, report: AgentReport) -> None:
        for device in await devices.note_health(self._engine, report.agent_id, report.devices):
            say = _log.info if device.healthy else _log.warning
            words = "device is healthy again" if device.healthy else "device is unhealthy"
            say(words, agent=report.agent_id, device=device.device_id, reason=device.reason)

    async def drain_agent(self, agent_id: str) -> int:
        occupants = await nodes.close_off(self._engine, agent_id)
        for one in occupants:
            if one.moves:
                order = Preempt(one.attempt, requeue=True, message=f"node {agent_id} is drained")
                await self._lives.tell(one.session_id, "preempt", order)
        return len(occupants)

    async def mark_agent_lost(self, agent_id: str) -> int:
        told = await nodes.mark_lost(self._engine, agent_id)
        for session_id in told:
            await self._lives.tell(session_id, "node_lost", lost_message(agent_id))
        return len(told)


def lost_message(agent_id: str) -> NodeLost:
    """Said to each session on the node, by an activity that was scheduled when it was lost, or later.

    By Temporal's clock, which is the sessions' clock too: this machine's own may be wrong.
    """
    lost_at = activity.info().scheduled_time.timestamp()
    return NodeLost(agent_id, f"node {agent_id} was lost: no heartbeat for 15 s", lost_at + FENCE_MARGIN_S)


def _fenced_message(agent_id: str) -> NodeLost:
    """It was stopped already."""
    return NodeLost(agent_id, f"node {agent_id} was cut off and stopped it, as it may have been started elsewhere")


def _exit_of(container: ContainerSeen) -> KernelExit:
    return KernelExit(container.kernel_id, container.attempt, container.exit_code, container.oom_killed, at=time.time())
