"""Sessions over GraphQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ariadne import ObjectType, QueryType

from api.graphql.asked import Info, or_none, page
from api.routes.sessions import statuses_of
from moorage.db import sessions

query = QueryType()
session = ObjectType("ComputeSession")


@query.field("compute_session")
async def one(_: Any, info: Info, id: str) -> Mapping[str, Any] | None:
    return await or_none(sessions.find(info.context.parts.engine, info.context.who, id))


@query.field("compute_session_list")
async def listed(
    _: Any, info: Info, limit: int, offset: int, status: str = "", name: str | None = None
) -> dict[str, Any]:
    limit, offset = page(limit, offset)
    items, total = await sessions.page(
        info.context.parts.engine,
        info.context.who,
        statuses=statuses_of(status),
        include_ended=False,
        name=name,
        limit=limit,
        offset=offset,
    )
    return {"items": items, "total_count": total}


for shown, column in {
    "group_name": "project",
    "domain_name": "domain",
    "scaling_group": "resource_group",
    "requested_slots": "slots",
}.items():
    session.set_alias(shown, column)


@session.field("kernels")
async def kernels(row: Mapping[str, Any], info: Info) -> Any:
    if "kernels" in row:
        return row["kernels"] or []
    found = await sessions.by_id(info.context.parts.engine, str(row["id"]))
    return (found or {}).get("kernels") or []
