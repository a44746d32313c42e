"""The seam to the sessions' workflows: tests put a recording fake in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import Answer, Cancel
from moorage.domain.errors import Unavailable
from moorage.session_start import session_input, start_scheduler, start_session

_ANSWER_S = 30.0
_log = log.get("api")


class Lives(Protocol):
    async def begin(self, row: Mapping[str, Any]) -> None:
        """The session's workflow runs."""
        ...

    async def cancel(self, row: Mapping[str, Any], cancel: Cancel) -> bool:
        """The session's workflow was told; it is started first if it doesn't run yet. False if it is over."""
        ...

    async def ask(self, row: Mapping[str, Any], update: str, wish: object) -> Answer:
        """What the session's workflow answers to an update. Unavailable if it does not answer in time."""
        ...

    async def schedule(self, group: str, policy: str) -> None:
        """The resource group has a scheduler."""
        ...

    async def drain(self, agent_id: str) -> bool:
        """The node's workflow was told to empty the node. False if there is none."""
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

    async def ask(self, row: Mapping[str, Any], update: str, wish: object) -> Answer:
        handle = self._client.get_workflow_handle(names.session_workflow(str(row["id"])))
        try:
            async with asyncio.timeout(_ANSWER_S):
                answer: Answer = await handle.execute_update(update, wish, result_type=Answer)
                return answer
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        except WorkflowUpdateFailedError as error:
            _log.info("update failed", session=str(row["id"]), update=update, error=str(error.cause)[:200])
        except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
            raise Unavailable(
                f"session {row['name']} has not answered within {_ANSWER_S:g} s; look at it before asking again"
            ) from None
        return Answer(False, "session-not-running", f"session {row['name']} is over, or not yet begun")

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

    async def is_reachable(self) -> bool:
        try:
            return await self._client.service_client.check_health()
        except Exception:
            return False
