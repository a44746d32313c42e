"""A session's rows, as local activities of its workflow."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.contracts.activities import (
    Again,
    Answer,
    Assignment,
    Finish,
    Move,
    Note,
    Prolong,
    PullImage,
    Requeue,
    Reserved,
    ReserveResize,
    SessionActivities,
    SessionState,
    SettleResize,
    Started,
)
from moorage.db import ledger, registries, resize, running
from moorage.domain.errors import MoorageError
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
            slots=requeue.slots,
        )

    async def finish_session(self, finish: Finish) -> str:
        return await ledger.finish(
            self._engine,
            finish.session_id,
            finish.ending,
            actor=finish.actor,
            fenced=finish.fenced_agents,
            usage=finish.usage,
            last_lines=finish.last_lines,
        )

    async def session_state(self, session_id: str) -> SessionState:
        status, attempt, kernels = await ledger.session_state(self._engine, session_id, self._seal)
        return SessionState(status, attempt, kernels)

    async def note_session(self, note: Note) -> bool:
        return await running.note(
            self._engine,
            note.session_id,
            note.attempt,
            reason=note.reason,
            message=note.message,
            actor=note.actor,
            at=note.at,
            kernel_id=note.kernel_id,
            health=note.health,
        )

    async def place_again(self, again: Again) -> Assignment:
        attempt, kernels = await running.place_again(
            self._engine, again.session_id, again.attempt, self._seal, slots=again.slots, usage=again.usage
        )
        return Assignment(attempt, kernels)

    async def reserve_resize(self, order: ReserveResize) -> Reserved:
        try:
            found = await resize.reserve(
                self._engine, order.session_id, order.attempt, order.slots, actor=order.actor, move=order.move
            )
        except MoorageError as refusal:
            return Reserved(Answer(False, refusal.code, refusal.message, refusal.data, refusal.hint))
        return Reserved(restart=found.restart, elsewhere=found.elsewhere, before=found.before)

    async def settle_resize(self, order: SettleResize) -> bool:
        return await resize.settle(
            self._engine,
            order.session_id,
            order.attempt,
            order.slots,
            reason=order.reason,
            message=order.message,
            actor=order.actor,
        )

    async def prolong_session(self, order: Prolong) -> bool:
        return await running.prolong(
            self._engine,
            order.session_id,
            order.attempt,
            lifetime_s=order.lifetime_s,
            kept_until=order.kept_until,
            message=order.message,
            actor=order.actor,
            at=order.at,
        )

    async def pull_order(self, image: str) -> PullImage:
        username, password = await registries.credentials(self._engine, self._seal, image)
        return PullImage(image, username=username, password=password)
