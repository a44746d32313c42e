"""Credentials of registries over REST: set, listed by host, removed. No route answers a password."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.image_schemas import PutRegistry
from moorage.db import registries

router = APIRouter(prefix="/registry", tags=["images"])


@router.get("", summary="The registries that have credentials")
async def index(who: Who, parts: With) -> Response:
    """Superadmins. Host and user name; never the password."""
    return JSONResponse({"items": await registries.index(parts.engine)})


@router.put("/{host}", summary="Set a registry's credentials", responses={201: {"description": "There were none"}})
async def put(host: str, wish: PutRegistry, who: Who, parts: With) -> Response:
    """Superadmins. 201 for a new one, 200 for others instead; pulls that begin from now on use them."""
    shown, made = await registries.put(parts.engine, parts.seal, who, host, wish.username, wish.password)
    return JSONResponse(shown, 201 if made else 200)


@router.delete("/{host}", status_code=204, summary="Remove a registry's credentials")
async def remove(host: str, who: Who, parts: With) -> Response:
    """Superadmins."""
    await registries.remove(parts.engine, who, host)
    return Response(status_code=204)
