"""The seam to the sessions' workflows: tests put a recording fake in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from temporalio.client import (
    Client,
    WorkflowUpdateFailedError,
    WorkflowUpdateHandle,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    WorkflowUpdateStage,
)
from temporalio.service import RPCError, RPCStatusCode

from moorage.contracts import names
from moorage.contracts.activities import Answer, Cancel
from moorage.domain.errors import Unavailable
from moorage.domain.image_orders import ImageOrder
from moorage.session_start import session_input, start_image_order, start_scheduler, start_session

# What takes longer is done all the same, and is looked after by its status.
ANSWER_S = 30.0


class NotYetAnswered(Unavailable):
    """The session's workflow has the wish, and is still at it."""


class Lives(Protocol):
    async def begin(self, row: Mapping[str, Any]) -> None:
        """The session's workflow runs."""
        ...

    async def cancel(self, row: Mapping[str, Any], cancel: Cancel) -> bool:
        """The session's workflow was told; it is started first if it doesn't run yet. False if it is over."""
        ...

    async def ask(self, row: Mapping[str, Any], update: str, wish: object, *, within_s: float = ANSWER_S) -> Answer:
        """What the session's workflow answers to an update. NotYetAnswered, or Unavailable if it doesn't take it."""
        ...

    async def schedule(self, group: str, policy: str) -> None:
        """The resource group has a scheduler."""
        ...

    async def drain(self, agent_id: str) -> bool:
        """The node's workflow was told to empty the node. False if there is none."""
        ...

    async def order_images(self, order: ImageOrder) -> None:
        """The order's workflow runs."""
        ...

    async def retire(self, agent_id: str) -> None:
        """The workflow of a lost node was told to end; there may be none."""
        ...

    async def is_reachable(self) -> bool: ...


class TemporalLives:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def begin(self, row: Mapping[str, Any]) -> None:
        await start_session(self._client, session_input(row))

    async def cancel(self, row: Mapping[str, Any], cancel: Cancel) -> bool:
        return await start_session(self._client, session_input(row), signal=("cancel", [cancel]))

    async def ask(self, row: Mapping[str, Any], update: str, wish: object, *, within_s: float = ANSWER_S) -> Answer:
        handle = self._client.get_workflow_handle(names.session_workflow(str(row["id"])))
        asked: WorkflowUpdateHandle[Answer] | None = None
        try:
            async with asyncio.timeout(within_s):
                accepted = WorkflowUpdateStage.ACCEPTED
                asked = await handle.start_update(update, wish, wait_for_stage=accepted, result_type=Answer)
                return await asked.result()
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            if asked is not None:
                raise NotYetAnswered(
                    f"session {row['name']} is still at it; its timeline tells when it is done"
                ) from None
            raise Unavailable(
                f"session {row['name']} has not taken it within {within_s:g} s; look at it before you ask again"
            ) from None
        except WorkflowUpdateFailedError:
            pass  # it ended before it came to it
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        return Answer(False, "session-not-running", f"session {row['name']} has ended, or not begun yet")

    async def schedule(self, group: str, policy: str) -> None:
        await start_scheduler(self._client, group, policy)

    async def retire(self, agent_id: str) -> None:
        try:
            await self._client.get_workflow_handle(names.agent_workflow(agent_id)).signal("retire")
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise

    async def drain(self, agent_id: str) -> bool:
        try:
            await self._client.get_workflow_handle(names.agent_workflow(agent_id)).signal("drain")
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def order_images(self, order: ImageOrder) -> None:
        await start_image_order(self._client, order)

    async def is_reachable(self) -> bool:
        try:
            return await self._client.service_client.check_health()
        except Exception:
            return False
