"""Sessions that wait for others of the same user."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.domain.errors import Conflict, NotFound
from moorage.domain.session import TERMINAL, DependencyPolicy, SessionResult, SessionStatus

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


async def resolve(connection: AsyncConnection, user_id: str, refs: Sequence[str], policy: str) -> list[str]:
    """The ids of one's own sessions, by id or by name (the live one, else the newest). They can't end until commit.

    With the policy `cancel`, one that has failed already is refused.
    """
    ids = {ref for ref in refs if _UUID.fullmatch(ref)}
    names = {ref for ref in refs if ref not in ids}
    by_name = await connection.execute(
        text(
            "SELECT DISTINCT ON (s.name) s.name, s.id FROM sessions s WHERE s.user_id = :user AND s.name = ANY(:names)"
            " ORDER BY s.name, (s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')) DESC, s.created_at DESC"
        ),
        {"user": user_id, "names": sorted(names)},
    )
    named = {row.name: str(row.id) for row in by_name} if names else {}
    wanted = {ref: named.get(ref, ref) for ref in refs}
    # Locked in one order. A session that ends meanwhile is seen ended, or its end sees us.
    locked = await connection.execute(
        text(
            "SELECT s.id, s.name, s.status, s.result FROM sessions s WHERE s.user_id = :user"
            " AND s.id = ANY(CAST(:ids AS uuid[])) ORDER BY s.id FOR KEY SHARE"
        ),
        {"user": user_id, "ids": sorted({one for one in wanted.values() if _UUID.fullmatch(one)})},
    )
    found = {str(row.id): row for row in locked}
    for ref, session_id in wanted.items():
        if session_id not in found:
            raise NotFound(
                f"there is no session {ref[:80]!r} of yours to depend on",
                code="dependency-not-found",
                data={"dependency": ref[:80]},
            )
        row = found[session_id]
        if policy == DependencyPolicy.CANCEL and has_failed(row.status, row.result):
            raise Conflict(
                f"session {row.name} that this one depends on is {row.status} with result {row.result}",
                code="dependency-failed",
                hint="with on_dependency_failure=run it starts all the same",
                data={"dependency": session_id, "status": row.status, "result": row.result},
            )
    return sorted(found)


def has_failed(status: str, result: str) -> bool:
    """It is over and was no success."""
    return status in TERMINAL and not (status == SessionStatus.TERMINATED and result == SessionResult.SUCCESS)
