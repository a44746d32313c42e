"""A session's rows, as local activities of its workflow."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.contracts.activities import Finish, Move, PullImage, Requeue, SessionActivities, SessionState, Started
from moorage.db import ledger, registries
from moorage.domain.session import SessionStatus
from moorage.seal import Seal


class LedgerSessions(SessionActivities):
    """Implements the promises of SessionActivities on PostgreSQL."""

    def __init__(self, engine: AsyncEngine, seal: Seal) -> None:
        self._engine = engine
        self._seal = seal

    async def move_session(self, move: Move) -> bool:
        return await ledger.move(
            self._engine,
            move.session_id,
            move.attempt,
            SessionStatus(move.to_status),
            reason=move.reason,
            message=move.message,
        )

    async def record_started(self, started: Started) -> bool:
        containers = {kernel.kernel_id: kernel.container_id for kernel in started.kernels}
        images = {kernel.kernel_id: (kernel.image_id, kernel.image_digest) for kernel in started.kernels}
        return await ledger.record_started(
            self._engine, started.session_id, started.attempt, containers, started.message, images
        )

    async def requeue_session(self, requeue: Requeue) -> int:
        return await ledger.requeue(
            self._engine,
            requeue.session_id,
            requeue.attempt,
            reason=requeue.reason,
            message=requeue.message,
            avoid=requeue.avoid_agent,
            fenced=requeue.fenced_agents,
            usage=requeue.usage,
        )

    async def finish_session(self, finish: Finish) -> str:
        return await ledger.finish(
            self._engine,
            finish.session_id,
            finish.ending,
            actor=finish.actor,
            fenced=finish.fenced_agents,
            usage=finish.usage,
        )

    async def session_state(self, session_id: str) -> SessionState:
        status, attempt, kernels = await ledger.session_state(self._engine, session_id, self._seal)
        return SessionState(status, attempt, kernels)

    async def pull_order(self, image: str) -> PullImage:
        username, password = await registries.credentials(self._engine, self._seal, image)
        return PullImage(image, username=username, password=password)
