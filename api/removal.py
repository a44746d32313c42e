"""Deleting what live sessions may still belong to: with force they are asked to end first."""

from __future__ import annotations

from collections.abc import Iterable

from api.deps import Parts
from moorage.contracts.activities import Cancel
from moorage.db import departures, projects, sessions
from moorage.db.tree import Row
from moorage.domain.session import TERMINAL, Reason
from moorage.domain.tenancy import Principal


async def delete_user(parts: Parts, who: Principal, ref: str, *, forced: bool) -> Row:
    """What it owned. If a session comes up meanwhile, or can't be asked, nothing is deleted: ask again."""
    asked = await departures.live_sessions(parts.engine, who, ref) if forced else []
    await _ask_to_end(parts, who, asked)
    return await departures.delete(parts.engine, who, ref, forced=forced, asked_to_end=asked)


async def delete_project(parts: Parts, who: Principal, ref: str, *, forced: bool) -> Row:
    """What it owned. If a session comes up meanwhile, or can't be asked, nothing is deleted: ask again."""
    asked = await projects.live_sessions(parts.engine, who, ref) if forced else []
    await _ask_to_end(parts, who, asked)
    return await projects.delete(parts.engine, who, ref, forced=forced, asked_to_end=asked)


async def _ask_to_end(parts: Parts, who: Principal, session_ids: Iterable[str]) -> None:
    for session_id in session_ids:
        row = await sessions.by_id(parts.engine, session_id)
        if row is not None and row["status"] not in TERMINAL:
            await parts.lives.cancel(row, Cancel(Reason.CANCELLED_BY_ADMIN, who.named))
