"""What idleness means for a session: its own wish, held to what its owners' policies say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import reading
from moorage.db.quotas import Quota
from moorage.db.reach import within
from moorage.domain.errors import Conflict, Forbidden, InvalidRequest
from moorage.domain.idle import IdlePolicy, IdleWish, policy_after
from moorage.domain.session import SessionType
from moorage.domain.tenancy import Principal

_OWNER = {"user": "s.user_id", "project": "s.project_id", "domain": "s.domain"}
_THRESHOLDS = ("cpu_percent", "device_percent", "net_bps")


def in_force(applying: Sequence[Quota], who: Principal, type: str, wish: IdleWish | None) -> IdlePolicy | None:
    """The policy that the session keeps for its life; None is never. Refuses a wish that is laxer than its owners'.

    Of several owners' policies the one holds that stops first; one that only reports holds where no other one does.
    A batch session is ruled by none: it ends by itself, and what looks idle may wait for a disk or another node.
    """
    ruling = None if type == SessionType.BATCH else _ruling(applying)
    if wish is None:
        return ruling[1] if ruling else None
    if wish.exempt:
        _check_exempt(who, ruling)
        return None
    if ruling is None:
        return _free(wish)
    asked = _asked(wish, ruling[1])
    _check(asked, *ruling)
    return asked


def _ruling(applying: Sequence[Quota]) -> tuple[Quota, IdlePolicy] | None:
    found = [
        (quota, policy_after(quota.idle_timeout_s, quota.idle))
        for quota in applying
        if quota.idle_timeout_s is not None
    ]
    return min(found, key=lambda one: (one[1].dry_run, one[1].after_s + one[1].grace_s), default=None)


def _check_exempt(who: Principal, ruling: tuple[Quota, IdlePolicy] | None) -> None:
    """Whoever could change the owner's limits may as well let one session be."""
    if ruling is not None and not who.reach("limit:update").covers(domain=who.domain, user=who.user_id):
        raise Forbidden(
            f"only administrators exempt a session from being stopped when idle, as {_whose(ruling[0])} says",
            hint="leave idle.exempt out, and extend the session when it is warned",
            data={"field": "idle.exempt", "permission": "limit:update"},
        )


def _free(wish: IdleWish) -> IdlePolicy:
    """Nobody rules it: what it leaves out is as in a policy that says nothing."""
    if wish.after_s is None:
        raise InvalidRequest(
            "idle needs after_s: no policy of yours says how long a session may be idle", data={"field": "idle.after_s"}
        )
    return _asked(wish, policy_after(wish.after_s))


def _asked(wish: IdleWish, otherwise: IdlePolicy) -> IdlePolicy:
    given = {name: value for name, value in asdict(wish).items() if value is not None and name != "exempt"}
    return replace(otherwise, **given | {"dry_run": wish.dry_run or otherwise.dry_run})


def _check(asked: IdlePolicy, quota: Quota, ruling: IdlePolicy) -> None:
    """Later, with less to be below, or only told: each would keep what the owner wants back."""
    for name in ("after_s", "grace_s"):
        if getattr(asked, name) > getattr(ruling, name):
            raise _laxer(name, getattr(asked, name), getattr(ruling, name), quota, "{:g} or less")
    for name in _THRESHOLDS:
        value, least = getattr(asked, name), getattr(ruling, name)
        if value is not None and (least is None or value < least):
            raise _laxer(name, value, least, quota, "no such threshold" if least is None else "{:g} or more")
    if asked.dry_run and not ruling.dry_run:
        raise _laxer("dry_run", True, False, quota, "false")


def _laxer(name: str, asked: float, limit: float | None, quota: Quota, allowed: str) -> Conflict:
    said = str(asked).lower() if isinstance(asked, bool) else f"{asked:g}"
    return Conflict(
        f"idle.{name} {said} would keep an idle session longer than {_whose(quota)} wants;"
        f" allowed is {allowed.format(limit)}",
        code="policy-ceiling",
        hint="ask for what is allowed, or an administrator to change the policy or to exempt the session",
        data={
            "scope": str(quota.scope),
            "name": quota.name,
            "policy": quota.policy,
            "field": f"idle.{name}",
            "ceiling": "idle",
            "limit": limit,
            "asked": asked,
        },
    )


def _whose(quota: Quota) -> str:
    policy = f" by its policy {quota.policy}" if quota.policy else ""
    return f"{quota.scope} {quota.name}{policy}"


async def watched(engine: AsyncEngine, who: Principal, limit: int) -> tuple[list[dict[str, Any]], int]:
    """(running sessions with an idle policy that `who` may read, the newest first; how many there are)."""
    values: list[Any] = []
    seen = within(who.reach("session:read"), values, **_OWNER)
    async with reading(engine) as connection:
        rows = await connection.fetch(
            "SELECT s.id::text, s.name, s.type, u.email AS user, p.name AS project, s.domain, s.resource_group, s.idle,"
            " s.kept_until, s.started_at, s.cluster_size, count(*) OVER () AS total FROM sessions s"
            " JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
            f" WHERE s.status = 'RUNNING' AND s.idle IS NOT NULL AND {seen}"
            f" ORDER BY s.created_at DESC, s.id LIMIT ${len(values) + 1}",
            *values,
            limit,
        )
    found = [{name: value for name, value in row.items() if name != "total"} for row in rows]
    return found, int(rows[0]["total"]) if rows else 0
