"""The audit over REST: who did what, for whom, with what outcome."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse

from api.deps import Parts, Who, With
from api.schemas import Text, parse_past
from moorage.db import trail
from moorage.domain.chain import parse_head
from moorage.domain.tenancy import Principal, forbidden

router = APIRouter(prefix="/audit", tags=["audit"])

Name = Annotated[Text | None, Query(max_length=300)]


async def sought(
    since: Name = None,
    until: Name = None,
    actor: Name = None,
    operation: Name = None,
    entity: Name = None,
    entity_id: Name = None,
    outcome: Literal["success", "asked", "denied", "refused", "failed"] | None = None,
) -> trail.Sought:
    return trail.Sought(
        since=parse_past("since", since) if since is not None else None,
        until=parse_past("until", until) if until is not None else None,
        actor=actor,
        operation=operation,
        entity=entity,
        entity_id=entity_id,
        outcome=outcome,
    )


Which = Annotated[trail.Sought, Depends(sought)]


@router.get("", summary="Who did what, newest first")
async def index(
    who: Who,
    parts: With,
    which: Which,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    after: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """`next` is the value of `after` for the page that follows; null when there is none."""
    rows = await trail.page(parts.engine, who, which, after=after, limit=limit, newest_first=order == "desc")
    following = rows[-1]["seq"] if len(rows) == limit else None
    return JSONResponse({"items": [_shown(row) for row in rows], "next": following})


@router.get(
    "/export",
    summary="The audit as JSON lines, oldest first",
    response_class=Response,
    responses={200: {"content": {"application/x-ndjson": {}}}},
)
async def export(who: Who, parts: With, which: Which) -> Response:
    """Each line has `seq`, `previous`, `hash` and `record`: hash = SHA-256(previous, then `seq record` as UTF-8)."""
    return StreamingResponse(_lines(parts, who, which), media_type="application/x-ndjson")


@router.get("/verify", summary="Prove that nobody changed the audit")
async def verify(who: Who, parts: With, expect: Annotated[Text | None, Query(max_length=100)] = None) -> Response:
    """Whoever may read all of it. `expect=SEQ:HASH`, an earlier `head`, shows that nothing was cut off since."""
    if not who.reach("audit:read").everywhere:
        raise forbidden(who, "audit:read")
    chain, broken = await trail.verify(parts.engine, expected=parse_head(expect) if expect is not None else None)
    head = {"seq": chain.seq, "hash": chain.head.hex()} if chain.rows else None
    return JSONResponse({"rows": chain.rows, "head": head, "broken": broken})


async def _lines(parts: Parts, who: Principal, which: trail.Sought) -> AsyncIterator[str]:
    async for row in trail.every(parts.engine, who, which):
        line = {**row, "previous": row["previous"].hex(), "hash": row["hash"].hex()}
        yield json.dumps(line) + "\n"


def _shown(row: trail.Row) -> dict[str, Any]:
    return {"seq": row["seq"], **json.loads(row["record"]), "hash": row["hash"].hex()}
