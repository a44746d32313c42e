"""What becomes of a session that runs: lines in its timeline, a longer life, a new start in its place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import ledger
from moorage.db.usage import keep
from moorage.domain.session import HOLDS_RESOURCES, KernelSpec, Reason, SessionStatus
from moorage.domain.usage import KernelUsage
from moorage.seal import Seal

_S = SessionStatus
# An attempt that is being stopped gets no successor in its place.
_STARTS_AGAIN = HOLDS_RESOURCES - {_S.TERMINATING}


async def note(
    engine: AsyncEngine,
    session_id: str,
    attempt: int,
    *,
    reason: str,
    message: str,
    actor: str,
    at: float,
    kernel_id: str = "",
    health: str = "",
) -> bool:
    """A line in the timeline, once by (session, reason, at), and the health of a kernel: no line if it is as before.

    False: the attempt is over.
    """
    async with engine.begin() as connection:
        row = await ledger.locked(connection, session_id)
        if row["attempt"] != attempt or _S(row["status"]) not in HOLDS_RESOURCES:
            return False
        # An agent that comes back says again what it found before.
        if health and not await _set_health(connection, kernel_id, health, message):
            return True
        if reason == Reason.IDLE_WARNING:  # where lists of sessions show it
            await connection.execute(
                text("UPDATE sessions SET status_info = :message WHERE id = :id"),
                {"id": session_id, "message": message},
            )
        words = f"{health}: {message}" if health else message
        await _write_line(connection, session_id, reason=reason, message=words, actor=actor, at=at)
        return True


async def prolong(
    engine: AsyncEngine,
    session_id: str,
    attempt: int,
    *,
    lifetime_s: float,
    kept_until: float,
    message: str,
    actor: str,
    at: float,
) -> bool:
    """The row has the lifetime, the timeline says so once. False if the attempt is over."""
    async with engine.begin() as connection:
        row = await ledger.locked(connection, session_id)
        if row["attempt"] != attempt or _S(row["status"]) not in HOLDS_RESOURCES:
            return False
        await connection.execute(
            text("UPDATE sessions SET lifetime_s = :lifetime, kept_until = to_timestamp(:kept) WHERE id = :id"),
            {"id": session_id, "lifetime": lifetime_s, "kept": kept_until},
        )
        await _write_line(connection, session_id, reason=Reason.EXTENDED, message=message, actor=actor, at=at)
        return True


async def place_again(
    engine: AsyncEngine, session_id: str, attempt: int, seal: Seal, *, usage: Collection[KernelUsage] = ()
) -> tuple[int, list[KernelSpec]]:
    """(next attempt, its kernels) where they were, holding what was held. No kernels: the session went another way.

    Idempotent by (session, attempt). No container of the old attempt may be left.
    """
    async with engine.begin() as connection:
        row = await ledger.locked(connection, session_id)
        if row["attempt"] == attempt:
            if _S(row["status"]) not in _STARTS_AGAIN:
                return attempt, []
            await _carry_over(connection, session_id, attempt)
            await keep(connection, session_id, usage)
    status, now, kernels = await ledger.session_state(engine, session_id, seal)
    goes_on = now == attempt + 1 and _S(status) in _STARTS_AGAIN
    return now, kernels if goes_on else []


async def _carry_over(connection: AsyncConnection, session_id: str, attempt: int) -> None:
    """Moved, not released and taken again: nobody comes in between, and no device is asked whether it is healthy."""
    agents = await connection.execute(
        text("SELECT DISTINCT agent_id FROM allocations WHERE session_id = :id AND released_at IS NULL"),
        {"id": session_id},
    )
    await ledger.lock_slots(connection, list(agents.scalars()))
    values: dict[str, Any] = {"id": session_id, "attempt": attempt}
    for table, where in (
        ("allocations", "session_id = :id"),
        ("device_allocations", "kernel_id IN (SELECT id FROM kernels WHERE session_id = :id)"),
    ):
        await connection.execute(
            text(
                f"UPDATE {table} SET attempt = attempt + 1 WHERE {where} AND attempt = :attempt AND released_at IS NULL"
            ),
            values,
        )
    await connection.execute(
        text("UPDATE kernels SET container_id = NULL, health = '', health_message = '' WHERE session_id = :id"), values
    )
    await connection.execute(
        text("UPDATE sessions SET attempt = attempt + 1, restarts = restarts + 1 WHERE id = :id"), values
    )


async def _set_health(connection: AsyncConnection, kernel_id: str, health: str, message: str) -> bool:
    """Whether it is another one."""
    changed = await connection.execute(
        text(
            "UPDATE kernels SET health = :health, health_message = :message WHERE id = :id AND health <> :health"
            " RETURNING id"
        ),
        {"id": kernel_id, "health": health, "message": message},
    )
    return changed.first() is not None


async def _write_line(
    connection: AsyncConnection, session_id: str, *, reason: str, message: str, actor: str, at: float
) -> None:
    """The session's row is locked."""
    await connection.execute(
        text(
            "INSERT INTO transitions (session_id, seq, from_status, to_status, actor, reason, message, attempt,"
            " told_at) SELECT id, (SELECT max(seq) + 1 FROM transitions WHERE session_id = :id), status, status,"
            " :actor, :reason, :message, attempt, :at FROM sessions WHERE id = :id"
            " ON CONFLICT (session_id, reason, told_at) WHERE told_at IS NOT NULL DO NOTHING"
        ),
        {"id": session_id, "actor": actor, "reason": reason, "message": message, "at": at},
    )
    await ledger.notify(connection, ledger.SESSION_CHANNEL, session_id)
