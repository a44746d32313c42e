"""Idle sessions over REST: who is, since when, what becomes of it; and how one keeps its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.deps import Who, With
from api.measured import Node, ask
from api.routes.sessions import shown
from api.schemas import Text, parse_span
from moorage.contracts.activities import Extend
from moorage.db import extensions, idling, sessions, usage
from moorage.domain.errors import Conflict
from moorage.domain.idle import IdleStage
from moorage.domain.stats import KernelIdle

router = APIRouter(tags=["sessions"])
_ORDER = ["", IdleStage.ACTIVE, IdleStage.WARNED, IdleStage.IDLE]


class ExtendSession(BaseModel):
    model_config = ConfigDict(extra="forbid")
    for_: Text = Field(alias="for", description="as 30m, 2h or 1d")


@router.post("/session/{ref}/extend", summary="Keep a running session longer")
async def extend(ref: str, wish: ExtendSession, who: Who, parts: With) -> Response:
    """Its lifetime, if it has one, ends so much later, and it isn't stopped for idleness before that.

    From now on, or from the end of an earlier extension. Refused beyond the `max_lifetime_s` of its owners, and beyond
    seven days but for administrators.
    """
    row = await sessions.find(parts.engine, who, ref, "session:update")
    seconds = parse_span("for", wish.for_)
    most_s = await extensions.longest_life(parts.engine, who, row, seconds)
    session_id = str(row["id"])
    await sessions.record_asked(parts.engine, who, "session:update", session_id, after={"extended_s": seconds})
    answer = await parts.lives.ask(row, "extend", Extend(seconds, who.named, most_s))
    if not answer.done:
        raise Conflict(answer.message, code=answer.code or "session-not-running", data=answer.data)
    return JSONResponse(shown(await sessions.by_id(parts.engine, session_id) or row, parts))


@router.get("/idle", summary="Which running sessions are idle, and when they are stopped")
async def index(who: Who, parts: With, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """Those that one may read and that an idle policy watches, whoever is stopped first at the top.

    `stage`: `active`, `counting`, `warned`, `idle` (over its time: dry runs and extended ones), or `unknown` where a
    node in `unanswered` did not answer.
    """
    rows, total = await idling.watched(parts.engine, who, limit)
    places = await usage.places(parts.engine, [row["id"] for row in rows])
    nodes = {Node(one.agent, one.address or "", one.agent_status or "") for one in places if one.agent is not None}
    answers = await ask(parts, nodes)
    found = {(one.kernel_id, one.attempt): one for answer in answers.by_agent.values() for one in answer.idle}
    now = datetime.now(UTC)
    items = [
        _item(row, [found.get((one.kernel_id, one.attempt)) for one in places if one.session_id == row["id"]], now)
        for row in rows
    ]
    items.sort(key=lambda one: (one["stops_at"] is None, one["stops_at"] or "", one["name"]))
    return JSONResponse({"items": items, "total": total, "limit": limit, "unanswered": answers.unanswered})


def _item(row: Mapping[str, Any], kernels: Sequence[KernelIdle | None], now: datetime) -> dict[str, Any]:
    """A session is as idle as the busiest of its kernels."""
    known = [one for one in kernels if one is not None]
    whole = bool(known) and len(known) == len(kernels)
    busiest = min(known, key=lambda one: one.idle_s or 0.0) if whole else None
    idle_s = busiest.idle_s if busiest is not None else None
    return {
        **row,
        "kept_until": row["kept_until"] and row["kept_until"].isoformat(),
        "started_at": row["started_at"] and row["started_at"].isoformat(),
        "stage": _stage(known, idle_s) if whole else "unknown",
        "low": busiest.low if busiest is not None else "",
        "idle_since": None if idle_s is None else (now - timedelta(seconds=idle_s)).isoformat(timespec="seconds"),
        "stops_at": _stops_at(row, known, now) if idle_s is not None else None,
    }


def _stage(kernels: Sequence[KernelIdle], idle_s: float | None) -> str:
    told = min((one.stage for one in kernels), key=_ORDER.index)
    if told in (IdleStage.WARNED, IdleStage.IDLE):
        return told
    return "active" if idle_s is None else "counting"


def _stops_at(row: Mapping[str, Any], kernels: Sequence[KernelIdle], now: datetime) -> str:
    """If nobody uses it; of a dry run: when it would be."""
    last = now + timedelta(seconds=max(one.stops_in_s or 0.0 for one in kernels))
    kept: datetime = row["kept_until"] or last
    return max(last, kept).isoformat(timespec="seconds")
