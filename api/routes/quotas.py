"""Quotas over REST: what is used of what is allowed."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.schemas import Text
from moorage.db import quotas
from moorage.domain.errors import InvalidRequest
from moorage.scheduler.snapshot import Scope

router = APIRouter(prefix="/quota", tags=["quotas"])


@router.get("", summary="What is used of what is allowed")
async def index(who: Who, parts: With, scope: Scope | None = None, name: Text | None = None) -> Response:
    """Of oneself, as `GET /resource` says it; with `scope` and `name` of an owner whose limits one may read."""
    if scope is None and name is None:
        return JSONResponse({"items": await quotas.own(parts.engine, who)})
    if scope is None or name is None:
        raise InvalidRequest("scope and name go together", data={"field": "name" if name is None else "scope"})
    return JSONResponse({"items": [await quotas.of(parts.engine, who, scope, name)]})
