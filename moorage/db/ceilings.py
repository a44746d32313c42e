"""What one session may ask: less than each of its owners allows. Refused at once, not queued for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db import quotas
from moorage.db.grants import SESSIONS
from moorage.db.quotas import Quota
from moorage.domain.errors import Conflict
from moorage.domain.resources import Slots, format_slot

_WORDS = {
    "max_containers": "cluster_size",
    "max_priority": "priority",
    "max_job_priority": "job_priority",
    "max_lifetime_s": "lifetime_s",
}


async def check(
    connection: AsyncConnection,
    applying: list[Quota],
    *,
    slots: Slots,
    kernels: int,
    priority: int,
    job_priority: int,
    lifetime_s: float,
    batch_timeout_s: float,
) -> float:
    """The lifetime in force: the wish, or the smallest ceiling where it named none. The smallest of all holds."""
    longest = max(lifetime_s, batch_timeout_s)
    for ceiling, asked in (
        ("max_containers", kernels),
        ("max_priority", priority),
        ("max_job_priority", job_priority),
        ("max_lifetime_s", longest),
    ):
        _check_ceiling(applying, ceiling, asked, "batch_timeout_s" if asked == batch_timeout_s > lifetime_s else "")
    await _check_ever(connection, applying, {name: amount * kernels for name, amount in slots.items()})
    lowest = _lowest(applying, "max_lifetime_s")
    return lifetime_s or (lowest.max_lifetime_s if lowest and lowest.max_lifetime_s else 0.0)


async def longest_life(connection: AsyncConnection, key: str, email: str, project: str, domain: str) -> Quota | None:
    """Whoever of these owners allows the shortest one; None if nobody says any."""
    return _lowest(await quotas.of_owners(connection, key, email, project, domain), "max_lifetime_s")


def _check_ceiling(applying: list[Quota], ceiling: str, asked: float, field: str) -> None:
    lowest = _lowest(applying, ceiling)
    if lowest is None or asked <= getattr(lowest, ceiling):
        return
    field, most = field or _WORDS[ceiling], getattr(lowest, ceiling)
    whose = f"{lowest.scope} {lowest.name}" if lowest.name else "whoever has no key"
    policy = f"in the policy {lowest.policy} or " if lowest.policy else ""
    raise Conflict(
        f"{field} {asked:g} is more than {whose} may ask: {ceiling} is {most:g}",
        code="policy-ceiling",
        hint=f"ask {most:g} or less, or an administrator to raise it {policy}by a limit of its own",
        data={
            "scope": str(lowest.scope),
            "name": lowest.name,
            "policy": lowest.policy,
            "field": field,
            "ceiling": ceiling,
            "limit": most,
            "asked": asked,
        },
    )


def _lowest(applying: list[Quota], ceiling: str) -> Quota | None:
    return min(
        (quota for quota in applying if getattr(quota, ceiling) is not None),
        key=lambda quota: float(getattr(quota, ceiling)),
        default=None,
    )


async def _check_ever(connection: AsyncConnection, applying: list[Quota], asked: Slots) -> None:
    """Refuses what an owner could not hold even if it held nothing else, now or with what is granted for later."""
    for quota in applying:
        for slot, amount, limit in _beyond(quota, asked):
            granted = await quotas.granted_now(connection, quota, slot)
            if limit - granted + await quotas.highest_grant(connection, quota, slot) < amount:
                raise _never(quota, slot, {"limit": limit, "asked": amount, "slot": slot})


def _beyond(quota: Quota, asked: Slots) -> Iterator[tuple[str, int, int]]:
    """(slot, asked, limit) where the limit in force alone is too small."""
    if quota.max_sessions == 0:
        yield SESSIONS, 1, 0
    for slot, limit in quota.max_slots.items():
        if asked.get(slot, 0) > limit:
            yield slot, asked[slot], limit


def _never(quota: Quota, slot: str, data: Mapping[str, int | str]) -> Conflict:
    asked, limit = (format_slot(slot, int(data[key])) for key in ("asked", "limit"))
    return Conflict(
        f"it asks {slot} {asked}, and {quota.scope} {quota.name} may never hold more than {limit}",
        code="quota-exceeded",
        hint="ask for less, or an administrator for a grant; moor quota shows what is allowed",
        data={"scope": str(quota.scope), "name": quota.name, **data},
    )
