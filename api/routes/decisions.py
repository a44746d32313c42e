"""Why sessions wait, when they will start, and what would be if something were different. Nothing is changed here."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api import what_if
from api.deps import Parts, Who, With
from api.schemas import CreateSession
from api.what_if import WhatIf
from moorage.db import groups, passes, project_reference, sessions, submit
from moorage.db.snapshots import read_snapshot
from moorage.domain.errors import InvalidRequest
from moorage.domain.session import SessionStatus
from moorage.plugins import order_names, orders
from moorage.scheduler.order import Sharing
from moorage.scheduler.snapshot import Snapshot

router = APIRouter(tags=["decisions"])
_SHOWN = 1000


@router.get("/session/{ref}/why", summary="Why a session waits, and when it will start")
async def why(ref: str, who: Who, parts: With) -> Response:
    """Every obstacle with numbers, the position, the smallest change that would help, and the expected start.

    `expected` is in seconds from now: half of the simulated futures start it by `p50_s`; null where none does.
    """
    row = await sessions.find(parts.engine, who, ref)
    session_id, status = str(row["id"]), str(row["status"])
    about = {"id": session_id, "name": row["name"], "status": status, "resource_group": row["resource_group"]}
    if status != SessionStatus.PENDING:
        return JSONResponse({**about, "message": row["status_info"] or row["reason"] or "it does not wait"})
    group = await groups.get(parts.engine, row["resource_group"])
    snapshot = await _seen(parts, group)
    if not any(session.session_id == session_id for session in snapshot.waiting):
        return JSONResponse({**about, "message": "it has just left the queue; ask again"})
    history = await passes.past_run_times(parts.engine, group["name"])
    found = await asyncio.to_thread(what_if.explained, snapshot, groups.policy_of(group), session_id, history)
    error = await passes.estimate_error(parts.engine, group["name"])
    return JSONResponse({**about, **found, "past_estimates": error})


@router.get("/resource-group/{name}/queue", summary="Who waits, in order")
async def queue(name: str, who: Who, parts: With, limit: Annotated[int, Query(ge=1, le=_SHOWN)] = 100) -> Response:
    """The order of this moment. Sessions of others are counted and not named, but for superadmins."""
    group = await groups.get(parts.engine, name)
    if not groups.may_see(group, who):
        raise groups.unknown(name)
    snapshot, policy = await _seen(parts, group), groups.policy_of(group)
    order = await asyncio.to_thread(lambda: what_if.planner_of(snapshot, policy).line_up(limit))
    rows = await sessions.waiting(parts.engine, who, order)
    items = [{"position": place, **rows.get(session_id, {})} for place, session_id in enumerate(order, 1)]
    answer = {"resource_group": name, "policy": policy.order, "total": len(snapshot.waiting), "items": items}
    return JSONResponse(answer)


@router.post("/plan", summary="Would it start, where and when? Nothing is submitted")
async def plan(wish: CreateSession, who: Who, parts: With) -> Response:
    """Takes what `POST /session` takes, refuses by the same ceilings, and says whether it `starts` now on `kernels`,
    or the obstacles and the expected start.
    """
    new = wish.checked(idempotency_key=None, idempotency_hash=None)
    who = project_reference.chosen(who, wish.project)
    group = await groups.get(parts.engine, new.resource_group)
    if not groups.may_use(group, who):
        raise groups.unknown(new.resource_group)
    async with parts.engine.connect() as connection:
        new = await submit.held_to_ceilings(connection, who, new)
    snapshot = await _seen(parts, group)
    session = what_if.waiting(new, who, snapshot.now)
    history = await passes.past_run_times(parts.engine, group["name"])
    return JSONResponse(await asyncio.to_thread(what_if.planned, snapshot, groups.policy_of(group), session, history))


@router.post("/resource-group/{name}/simulate", summary="The same queue, if something were different")
async def simulate(name: str, change: WhatIf, who: Who, parts: With) -> Response:
    """Other policy or options, other limits, nodes lost, jobs more: when does each session start, against now?"""
    group = await groups.get(parts.engine, name)
    snapshot = await _seen(parts, group)
    history = await passes.past_run_times(parts.engine, name)
    result = await asyncio.to_thread(what_if.compared, snapshot, group, change, history)
    rows = await sessions.waiting(parts.engine, who, [one["id"] for one in result["sessions"][:_SHOWN]])
    named = [{**one, "name": rows.get(one["id"], {}).get("name")} for one in result["sessions"]]
    return JSONResponse({**result, "sessions": named})


@router.get("/resource-group/{name}/replay", summary="Decide recorded passes again")
async def replay(
    name: str,
    who: Who,
    parts: With,
    since: datetime | None = None,
    until: datetime | None = None,
    policy: str | None = None,
) -> Response:
    """The last hour if no time is given. Under another policy: who would have started earlier or later."""
    if policy is not None and policy not in order_names():
        raise InvalidRequest(
            f"unknown policy {policy[:64]!r}; allowed are {', '.join(order_names())}", code="unknown-policy"
        )
    await groups.get(parts.engine, name)
    end = _utc(until) if until is not None else datetime.now(UTC)
    begin = _utc(since) if since is not None else end - timedelta(hours=1)
    if begin > end:
        raise InvalidRequest(f"since {begin.isoformat()} is after until {end.isoformat()}")
    kept = await passes.between(parts.engine, name, begin, end)
    result = await asyncio.to_thread(what_if.replayed, kept, policy)
    return JSONResponse({"resource_group": name, "since": begin.isoformat(), "until": end.isoformat(), **result})


async def _seen(parts: Parts, group: Mapping[str, Any]) -> Snapshot:
    """What the next pass would see, with past use where the order looks at it."""
    policy = groups.policy_of(group)
    shares = isinstance(orders().get(policy.order), Sharing)
    half_life_s = policy.half_life_s if shares else None
    return await read_snapshot(parts.engine, group["name"], half_life_s=half_life_s)


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
