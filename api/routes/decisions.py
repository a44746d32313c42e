"""Why sessions wait, when they will start, and what would be if something were different. Nothing here changes anything."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api import what_if
from api.deps import Admin, Who, With
from api.schemas import CreateSession
from api.what_if import WhatIf
from moorage.db import groups, passes, sessions
from moorage.domain.errors import InvalidRequest
from moorage.domain.session import SessionStatus
from moorage.plugins import order_names
from moorage.scheduler.planner import Planner

router = APIRouter(tags=["decisions"])
_SHOWN = 1000


@router.get("/session/{ref}/why", summary="Why a session waits, and when it will start")
async def why(ref: str, who: Who, parts: With) -> Response:
    """Every obstacle with numbers, the position, the smallest change that would help, and the expected start.

    `expected` is in seconds from now, half of the simulated futures start it by `p50_s`; null where no future does.
    """
    row = await sessions.find(parts.engine, who, ref)
    session_id, status = str(row["id"]), str(row["status"])
    about = {"id": session_id, "name": row["name"], "status": status, "resource_group": row["resource_group"]}
    if status != SessionStatus.PENDING:
        return JSONResponse({**about, "message": _why_not_waiting(row)})
    policy, snapshot = await _seen(parts, row["resource_group"])
    if not any(session.session_id == session_id for session in snapshot.waiting):
        return JSONResponse({**about, "message": "it has just left the queue; ask again"})
    history = await passes.past_run_times(parts.engine, row["resource_group"])
    found, expected = await asyncio.to_thread(_explained, snapshot, policy, session_id, history)
    error = await passes.estimate_error(parts.engine, row["resource_group"])
    return JSONResponse({**about, **_plain(found), "expected": expected, "past_estimates": error})


@router.get("/resource-group/{name}/queue", summary="Who waits, in order")
async def queue(name: str, who: Who, parts: With, limit: Annotated[int, Query(ge=1, le=_SHOWN)] = 100) -> Response:
    """The order of this moment. Sessions of others are counted and not named, but for superadmins."""
    row = await groups.get(parts.engine, name)
    if not groups.may_use(row, who):
        raise groups.unknown(name)
    policy, snapshot = await _seen(parts, name)
    order = await asyncio.to_thread(lambda: Planner(snapshot, policy, **what_if.registries()).line())
    shown = await sessions.named(parts.engine, order[:limit])
    items = [
        {"position": place, **_mine(shown.get(session_id), who)} for place, session_id in enumerate(order[:limit], 1)
    ]
    return JSONResponse({"resource_group": name, "policy": policy.order, "total": len(order), "items": items})


@router.post("/plan", summary="Would it start, where and when? Nothing is submitted")
async def plan(wish: CreateSession, who: Who, parts: With) -> Response:
    """Takes what `POST /session` takes. `starts` now on `kernels`, or the obstacles and the expected start."""
    new = wish.checked(idempotency_key=None, idempotency_hash=None)
    policy, snapshot = await _seen(parts, new.resource_group, for_one=True)
    session = what_if.waiting(new, who, snapshot.now)
    history = await passes.past_run_times(parts.engine, new.resource_group)
    return JSONResponse(await asyncio.to_thread(what_if.planned, snapshot, policy, session, history))


@router.post("/resource-group/{name}/simulate", summary="The same queue, if something were different")
async def simulated(name: str, change: WhatIf, who: Admin, parts: With) -> Response:
    """Other policy or options, other limits, nodes lost, jobs more: when does each session start, against now?"""
    await groups.get(parts.engine, name)
    policy, snapshot = await _seen(parts, name, for_one=True)
    history = await passes.past_run_times(parts.engine, name)
    return JSONResponse(await asyncio.to_thread(what_if.compared, snapshot, policy, change, history))


@router.get("/resource-group/{name}/replay", summary="Decide recorded passes again")
async def replayed(
    name: str,
    who: Admin,
    parts: With,
    since: datetime | None = None,
    until: datetime | None = None,
    policy: str | None = None,
) -> Response:
    """The last hour if no time is given. Under another policy: who would have started earlier or later."""
    if policy is not None and policy not in order_names():
        raise InvalidRequest(f"unknown policy {policy[:64]!r}; allowed are {', '.join(order_names())}")
    end = _utc(until) if until is not None else datetime.now(UTC)
    begin = _utc(since) if since is not None else end - timedelta(hours=1)
    kept = await passes.between(parts.engine, name, begin, end)
    result = await asyncio.to_thread(what_if.replayed, kept, policy)
    return JSONResponse({"resource_group": name, "since": begin.isoformat(), "until": end.isoformat(), **result})
