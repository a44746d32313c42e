"""What was decided, kept so that it can be explained, decided again, and compared with what happened."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.scheduler import record
from moorage.scheduler.snapshot import Decisions, Policy, Snapshot

# Kept for each group: so many passes, none older than this.
KEPT_PASSES = 2000
KEPT_DAYS = 7
# A pass over more than this is not kept whole: packing it would take longer than deciding it.
_LARGEST_KEPT = 20_000
# Run times of the past that estimates draw from.
_PAST_SESSIONS = 500
_JUDGED_ESTIMATES = 200


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass as it was. `at` in UTC."""

    id: int
    at: datetime
    snapshot: Snapshot
    policy: Policy
    decisions: Decisions


async def keep(
    engine: AsyncEngine,
    resource_group: str,
    epoch: int,
    snapshot: Snapshot,
    policy: Policy,
    decisions: Decisions,
    *,
    placed: int,
    took_ms: float,
) -> None:
    """Writes the pass; of a huge one only the causes are kept, with counts."""
    small = len(snapshot.waiting) + len(snapshot.nodes) <= _LARGEST_KEPT
    packed = await asyncio.to_thread(_pack, record.to_plain(snapshot)) if small else b""
    decided = await asyncio.to_thread(_pack, record.to_plain(decisions)) if small else b""
    causes = Counter(str(refusal.cause) for refusal in decisions.refusals)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO passes (resource_group, epoch, duration_ms, waiting, placed, policy, causes, snapshot,"
                " decisions) VALUES (:group, :epoch, :took, :waiting, :placed, CAST(:policy AS jsonb),"
                " CAST(:causes AS jsonb), :snapshot, :decisions)"
            ),
            {
                "group": resource_group,
                "epoch": epoch,
                "took": took_ms,
                "waiting": len(snapshot.waiting),
                "placed": placed,
                "policy": json.dumps(record.to_plain(policy)),
                "causes": json.dumps(causes),
                "snapshot": packed,
                "decisions": decided,
            },
        )


async def between(
    engine: AsyncEngine, resource_group: str, begin: datetime, end: datetime, *, limit: int = 200
) -> list[Pass]:
    """The passes kept whole in that time, in their order; the `limit` newest."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT id, at, policy, snapshot, decisions FROM passes WHERE resource_group = :group"
                " AND at BETWEEN :begin AND :end AND snapshot <> '' ORDER BY at DESC, id DESC LIMIT :limit"
            ),
            {"group": resource_group, "begin": begin, "end": end, "limit": limit},
        )
        return [
            Pass(
                row.id,
                row.at,
                record.from_plain(Snapshot, _unpack(row.snapshot)),
                record.from_plain(Policy, row.policy),
                record.from_plain(Decisions, _unpack(row.decisions)),
            )
            for row in reversed(rows.all())
        ]


async def forget_old(engine: AsyncEngine) -> int:
    """Passes beyond the newest ones and the last days go. Returns how many went."""
    async with engine.begin() as connection:
        gone = await connection.execute(
            text(
                "DELETE FROM passes p USING (SELECT id, row_number() OVER (PARTITION BY resource_group"
                " ORDER BY id DESC) AS n, at FROM passes) o WHERE o.id = p.id"
                " AND (o.n > :kept OR o.at < now() - make_interval(days => :days)) RETURNING 1"
            ),
            {"kept": KEPT_PASSES, "days": KEPT_DAYS},
        )
        return len(gone.all())


async def past_run_times(engine: AsyncEngine, resource_group: str) -> list[float]:
    """Seconds that the group's last ended sessions ran, sorted."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT extract(epoch FROM terminated_at - started_at)::float8 FROM sessions"
                " WHERE resource_group = :group AND status = 'TERMINATED' AND started_at IS NOT NULL"
                " ORDER BY terminated_at DESC LIMIT :limit"
            ),
            {"group": resource_group, "limit": _PAST_SESSIONS},
        )
        return sorted(float(seconds) for seconds in rows.scalars())


async def without_estimate(engine: AsyncEngine, resource_group: str, limit: int) -> list[str]:
    """Waiting sessions for which nothing was said yet, the first in the queue first."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT s.id::text FROM sessions s WHERE s.status = 'PENDING' AND s.resource_group = :group"
                " AND NOT EXISTS (SELECT 1 FROM estimates e WHERE e.session_id = s.id)"
                " ORDER BY s.priority DESC, s.created_at LIMIT :limit"
            ),
            {"group": resource_group, "limit": limit},
        )
        return list(rows.scalars())


async def keep_estimate(engine: AsyncEngine, resource_group: str, session_id: str, p50: float, p90: float) -> None:
    """The first word counts: a later estimate of the same session changes nothing. Seconds since 1970."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO estimates (session_id, resource_group, p50, p90)"
                " VALUES (:id, :group, to_timestamp(:p50), to_timestamp(:p90)) ON CONFLICT DO NOTHING"
            ),
            {"id": session_id, "group": resource_group, "p50": p50, "p90": p90},
        )


async def estimate_error(engine: AsyncEngine, resource_group: str) -> dict[str, Any]:
    """How good the last estimates were: seconds from p50 to the start, and how many started by p90 and a second."""
    async with engine.connect() as connection:
        row = (
            await connection.execute(
                text(
                    "SELECT count(*) AS n, percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(off)) AS median_s,"
                    " percentile_cont(0.9) WITHIN GROUP (ORDER BY abs(off)) AS p90_s,"
                    " avg((started_at <= p90 + interval '1 second')::int)::float8 AS within"
                    " FROM (SELECT started_at, p90,"
                    " extract(epoch FROM started_at - p50)::float8 AS off FROM estimates"
                    " WHERE resource_group = :group AND started_at IS NOT NULL ORDER BY started_at DESC"
                    " LIMIT :limit) judged"
                ),
                {"group": resource_group, "limit": _JUDGED_ESTIMATES},
            )
        ).one()
    return {
        "judged": row.n,
        "median_error_s": row.median_s,
        "p90_error_s": row.p90_s,
        "started_by_p90": row.within,
    }


def _pack(plain: Any) -> bytes:
    return zlib.compress(json.dumps(plain, separators=(",", ":")).encode(), 3)


def _unpack(packed: bytes) -> Any:
    return json.loads(zlib.decompress(bytes(packed)))
