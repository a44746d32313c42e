"""Grants over REST: more for a time."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.quota_schemas import CreateGrant
from moorage.db import grants

router = APIRouter(prefix="/grant", tags=["grants"])


@router.get("", summary="The grants that one may see")
async def index(who: Who, parts: With) -> Response:
    """In force, future, over and revoked (`state`), the newest 1000. Base units."""
    return JSONResponse({"items": await grants.index(parts.engine, who)})


@router.post("", status_code=201, summary="Give an owner more for a time")
async def give(wish: CreateGrant, who: Who, parts: With) -> Response:
    """Whoever administers the domain, for its projects, users and keys. It begins and ends by itself."""
    return JSONResponse(await grants.give(parts.engine, who, wish.checked()), 201)


@router.delete("/{grant_id}", status_code=204, summary="Take a grant back")
async def revoke(grant_id: UUID, who: Who, parts: With) -> Response:
    """What runs already goes on."""
    await grants.revoke(parts.engine, who, str(grant_id))
    return Response(status_code=204)
