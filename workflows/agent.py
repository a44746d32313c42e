"""A node as long as it exists: its presence, its return, and what runs on it against what should."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import ActivityError
from temporalio.exceptions import TimeoutError as NotInTime

from moorage.contracts import names
from moorage.contracts.activities import (
    AgentActivities,
    AgentReport,
    KernelActivities,
    Presence,
    PresenceActivities,
)
from moorage.contracts.shown import Shown
from moorage.domain.node import AgentInfo
from workflows import options


@workflow.defn(name="AgentWorkflow")
class AgentWorkflow:
    """Handlers only note what was said; `run` alone acts."""

    @workflow.init
    def __init__(self, agent_id: str, known: AgentInfo | None = None) -> None:
        self._registered: AgentInfo | None = known
        self._info: AgentInfo | None = None
        self._report: AgentReport | None = None
        self._drain = False
        self._retired = False
        self._presence: workflow.ActivityHandle[None] | None = None

    @workflow.signal
    def register(self, info: AgentInfo) -> None:
        self._registered = info

    @workflow.signal
    def report(self, report: AgentReport) -> None:
        self._report = report

    @workflow.signal
    def drain(self) -> None:
        self._drain = True

    @workflow.signal
    def retire(self) -> None:
        self._retired = True

    @workflow.run
    async def run(self, agent_id: str, known: AgentInfo | None = None) -> None:
        while True:
            await workflow.wait_condition(lambda: not self._nothing_waits())
            if self._registered is not None:
                await self._welcome(self._registered)
            elif self._presence_ended():
                if not await self._comes_back():
                    await self._mourn(agent_id)
            elif self._retired:
                if self._presence is None:
                    return  # a node that comes back all the same begins a new one
                self._retired = False
            elif self._drain:
                await self._empty(agent_id)
            elif self._report is not None:
                await self._compare(self._report)
            if workflow.info().is_continue_as_new_suggested() and self._nothing_waits():
                workflow.continue_as_new(args=[agent_id, self._info])

    async def _welcome(self, info: AgentInfo) -> None:
        """The node takes work from here on. A new process of the agent replaces the presence of the old one."""
        self._registered = None
        self._retired = False
        try:
            await workflow.execute_local_activity_method(
                AgentActivities.register_agent,
                info,
                start_to_close_timeout=options.DATABASE_TIMEOUT,
                retry_policy=options.DATABASE_RETRY,
                summary=Shown(f"register {info.agent_id}"),
            )
        except ActivityError as error:
            workflow.set_current_details(f"**refused**: {error.cause}")
            return
        self._info = info
        if self._presence is not None:
            self._presence.cancel()
        self._presence = workflow.start_activity_method(
            PresenceActivities.hold_presence,
            Presence(info.agent_id, info.incarnation),
            task_queue=names.agent_queue(info.agent_id),
            schedule_to_start_timeout=options.PRESENCE_HEARTBEAT,
            start_to_close_timeout=options.PRESENCE_TIMEOUT,
            heartbeat_timeout=options.PRESENCE_HEARTBEAT,
            retry_policy=options.PRESENCE_RETRY,
            cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
            summary=Shown(f"presence of {info.agent_id}: its heartbeats are the node's"),
        )
        workflow.set_current_details(f"**ALIVE**: {info.hostname}, {info.runtime}, {info.address}")
        workflow.upsert_search_attributes(
            [
                names.STATUS.value_set("ALIVE"),
                names.AGENT.value_set(info.agent_id),
                names.RESOURCE_GROUP.value_set(info.resource_group),
            ]
        )
        await self._compare(AgentReport(info.agent_id, info.incarnation, info.containers))

    async def _comes_back(self) -> bool:
        """True if the node has registered meanwhile. Waits for that only when its silence was noticed late.

        Then Temporal itself was away: nobody's heartbeat came through, and each node is given the time to call again.
        """
        assert self._presence is not None
        ended = self._presence
        silent_s = workflow.time() - _last_beat(None if ended.cancelled() else ended.exception())
        if silent_s > options.NOTICED_LATE_S and workflow.patched("noticed-late"):
            workflow.set_current_details(f"**silent** for {silent_s:.0f} s, as Temporal was away; it may call again")
            with suppress(TimeoutError):
                await workflow.wait_condition(lambda: self._registered is not None, timeout=options.CALLS_AGAIN)
        return self._registered is not None

    async def _mourn(self, agent_id: str) -> None:
        """Nothing more is placed on the node, and each session on it is told."""
        self._presence = None
        await workflow.execute_activity_method(
            AgentActivities.mark_agent_lost,
            agent_id,
            start_to_close_timeout=options.MESSAGES_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(f"{agent_id} is lost: tell its sessions"),
        )
        workflow.set_current_details("**LOST**: no heartbeat for 15 s")
        workflow.upsert_search_attributes([names.STATUS.value_set("LOST")])

    async def _empty(self, agent_id: str) -> None:
        """Nothing new is placed on the node; what may go on elsewhere is told to, the rest is waited for."""
        self._drain = False
        holding = await workflow.execute_activity_method(
            AgentActivities.drain_agent,
            agent_id,
            start_to_close_timeout=options.MESSAGES_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(f"drain {agent_id}: move what may go on elsewhere"),
        )
        workflow.set_current_details(f"**DRAINED**: takes nothing new; {holding} sessions held room when it began")

    async def _compare(self, report: AgentReport) -> None:
        """Containers nobody expects are removed; sessions whose container is gone are told."""
        self._report = None
        if self._presence is None:
            return  # lost meanwhile; it reports again when it has registered
        verdict = await workflow.execute_local_activity_method(
            AgentActivities.reconcile_agent,
            report,
            start_to_close_timeout=options.MESSAGES_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown("compare what runs with what should"),
        )
        await asyncio.gather(
            *(
                workflow.execute_activity_method(
                    KernelActivities.destroy_kernel,
                    order,
                    task_queue=names.agent_queue(report.agent_id),
                    schedule_to_start_timeout=options.NODE_PICKUP,
                    start_to_close_timeout=options.DESTROY_MARGIN,
                    retry_policy=options.PULL_RETRY,
                    summary=Shown(f"remove unexpected container of session {order.session_id}"),
                )
                for order in verdict.destroy
            ),
            return_exceptions=True,  # what could not be removed is in the next report again
        )

    def _presence_ended(self) -> bool:
        return self._presence is not None and self._presence.done()

    def _nothing_waits(self) -> bool:
        asked = self._drain or self._retired
        return self._registered is None and self._report is None and not asked and not self._presence_ended()


def _last_beat(error: BaseException | None) -> float:
    """When its node last said that it was there, by the node's clock; in no way late if it never did."""
    cause = error.cause if isinstance(error, ActivityError) else None
    details = cause.last_heartbeat_details if isinstance(cause, NotInTime) else ()
    said = details[0] if details else None
    return float(said["at"]) if isinstance(said, dict) and "at" in said else math.inf
