"""The seam to the sessions' workflows: tests put a recording fake in its place."""

from __future__ import annotations

from typing import Protocol

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from moorage.contracts import names


class Lives(Protocol):
    """Messages to sessions that have begun."""

    async def tell(self, session_id: str, signal: str, message: object) -> bool:
        """Sends the signal. False if the session's workflow is over or never was."""
        ...


class TemporalLives:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def tell(self, session_id: str, signal: str, message: object) -> bool:
        try:
            await self._client.get_workflow_handle(names.session_workflow(session_id)).signal(signal, message)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return False
            raise
        return True
