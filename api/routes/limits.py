"""Limits over REST."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.group_schemas import PutLimit
from moorage.db import limits
from moorage.scheduler.snapshot import Scope

router = APIRouter(prefix="/limit", tags=["limits"])


@router.get("", summary="The limits that apply to one")
async def index(who: Who, parts: With) -> Response:
    """Of oneself and of what one administers. Slots in base units."""
    return JSONResponse({"items": await limits.index(parts.engine, who)})


@router.put("/{scope}/{name:path}", summary="Set an owner's limits and weight")
async def put(scope: Scope, name: str, wish: PutLimit, who: Who, parts: With) -> Response:
    """Whoever administers the domain sets those of its projects, users and keys; a domain's own need more.

    `scope` is keypair, user, project or domain; a project's name is `domain/project`.
    """
    return JSONResponse(await limits.put(parts.engine, who, scope, name, wish.checked()))


@router.delete("/{scope}/{name:path}", status_code=204, summary="Remove an owner's limits")
async def remove(scope: Scope, name: str, who: Who, parts: With) -> Response:
    """As for setting them."""
    await limits.remove(parts.engine, who, scope, name)
    return Response(status_code=204)
