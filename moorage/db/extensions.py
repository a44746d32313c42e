"""How much longer a session may be kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ceilings
from moorage.db.quotas import Quota
from moorage.domain.errors import Conflict
from moorage.domain.idle import span
from moorage.domain.session import SessionStatus
from moorage.domain.tenancy import Principal

LONGEST_S = 7 * 86400.0
"""So far ahead one may keep a session oneself; an administrator further, which is how one that runs is exempted."""


async def longest_life(engine: AsyncEngine, who: Principal, row: Mapping[str, Any], seconds: float) -> float:
    """How long it may live in all (0: for ever). Conflict unless it runs and may be kept for so much longer.

    It is kept from now on, or from the end of what it was extended by before. A lifetime that it has grows by as much,
    as far as its owners' ceilings let it: one that lives as long as it may is kept from idleness within that.
    """
    if row["status"] != SessionStatus.RUNNING:
        raise Conflict(
            f"session {row['name']} is {row['status']}; extend needs RUNNING",
            code="session-not-running",
            data={"status": row["status"]},
        )
    now = datetime.now(UTC)
    kept_s = max(0.0, (row["kept_until"] - now).total_seconds()) if row["kept_until"] else 0.0
    if kept_s + seconds > LONGEST_S and not who.reach("limit:update").covers(domain=row["domain"]):
        kept = f"it is extended by {span(kept_s)} already; " if kept_s else ""
        raise _refused(row, seconds, LONGEST_S - kept_s, f"{kept}only administrators extend by more than seven days")
    async with engine.connect() as connection:
        owners = (row["access_key"] or "", row["user"], row["project"], row["domain"])
        quota = await ceilings.longest_life(connection, *owners)
    if quota is None or quota.max_lifetime_s is None:
        return 0.0
    kept_for_s = (now - (row["started_at"] or now)).total_seconds() + kept_s
    if kept_for_s + seconds > quota.max_lifetime_s:
        raise _refused(row, seconds, quota.max_lifetime_s - kept_for_s, _words(quota, kept_for_s))
    return quota.max_lifetime_s


def _words(quota: Quota, kept_for_s: float) -> str:
    policy = f" in the policy {quota.policy}" if quota.policy else ""
    return (
        f"it has lived for {span(kept_for_s)}, extensions included, and {quota.scope} {quota.name} allows"
        f" {span(quota.max_lifetime_s or 0)} (max_lifetime_s{policy})"
    )


def _refused(row: Mapping[str, Any], asked_s: float, most_s: float, why: str) -> Conflict:
    most_s = max(0.0, most_s)
    return Conflict(
        f"session {row['name']} can't be extended by {span(asked_s)}: {why}",
        code="extension-too-long",
        hint=f"ask {span(most_s)} or less" if most_s >= 1 else "an administrator can raise the limit",
        data={"asked_s": asked_s, "limit_s": round(most_s, 3)},
    )
