"""Periodic repair of what no other part can notice: a session without a workflow, a group without a scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client
from temporalio.common import WorkflowIDReusePolicy

from activities.agents import lost_message
from activities.lives import TemporalLives
from moorage.contracts import names
from moorage.contracts.activities import MaintenanceActivities
from moorage.db import groups, image_orders, ledger, logins, nodes, nonces, passes
from moorage.domain.session import SessionStatus
from moorage.session_start import session_input, start_image_order, start_scheduler, start_session

# The API starts the workflow at once and the scheduler again when it assigns; what is older lost both.
_OLD_ENOUGH_S = 10.0


class Reaping(MaintenanceActivities):
    def __init__(self, engine: AsyncEngine, client: Client) -> None:
        self._engine = engine
        self._client = client
        self._lives = TemporalLives(client)

    async def reap(self) -> int:
        for group in await groups.index(self._engine):
            await start_scheduler(self._client, group["name"], group["policy"])
        await passes.forget_old(self._engine)
        await nonces.forget_old(self._engine)
        await logins.forget_old(self._engine)
        for order in await image_orders.unfinished(self._engine, _OLD_ENOUGH_S):
            await start_image_order(self._client, order)
        await self._tell_stranded()
        return await self._start_missing()

    async def _tell_stranded(self) -> None:
        """A node may be lost just before its session hears that it was placed there: what was said then was lost."""
        for session_id, agent_id in await nodes.stranded(self._engine):
            await self._lives.tell(session_id, "node_lost", lost_message(agent_id))

    async def _start_missing(self) -> int:
        rows = await ledger.without_workflow(self._engine, _OLD_ENOUGH_S)
        if not rows:
            return 0
        alive = {
            execution.id
            async for execution in self._client.list_workflows(
                "WorkflowType = 'SessionWorkflow' AND ExecutionStatus = 'Running'"
            )
        }
        lost = [row for row in rows if names.session_workflow(str(row["id"])) not in alive]
        return sum([await self._start(row) for row in lost])

    async def _start(self, row: Mapping[str, Any]) -> bool:
        """A waiting session begins anew; one that had been placed is ended by the workflow that takes over."""
        session = replace(session_input(row), recovered=row["status"] != SessionStatus.PENDING)
        return await start_session(self._client, session, reuse=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
