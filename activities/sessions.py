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
    Requeue,
    Reserved,
    ReserveResize,
    SessionActivities,
    SessionState,
    SettleResize,
    Started,
)
from moorage.db import ledger, running
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
        return await ledger.record_started(
            self._engine, started.session_id, started.attempt, containers, started.message
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
            self._engine, again.session_id, again.attempt, self._seal, usage=again.usage
        )
        return Assignment(attempt, kernels)

    async def reserve_resize(self, order: ReserveResize) -> Reserved:
        return Reserved(Answer(False, "not-yet", "sessions can't be resized yet"))

    async def settle_resize(self, order: SettleResize) -> bool:
        return False

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
