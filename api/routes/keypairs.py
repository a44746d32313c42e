"""Key pairs over REST."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.tenant_schemas import ChangeKeypair, CreateKeypair, Limit, Offset
from moorage.db import keypairs

router = APIRouter(prefix="/keypair", tags=["key pairs"])


@router.get("", summary="The key pairs that one may see")
async def index(who: Who, parts: With, user: str | None = None, limit: Limit = 20, offset: Offset = 0) -> Response:
    """By user and age, without their secret keys."""
    items, total = await keypairs.index(parts.engine, who, user=user, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("", status_code=201, summary="Make a key pair")
async def create(wish: CreateKeypair, who: Who, parts: With) -> Response:
    """Its secret key is shown this once."""
    return JSONResponse(await keypairs.create(parts.engine, parts.seal, who, wish.user), 201)


@router.get("/{access_key}", summary="One key pair")
async def show(access_key: str, who: Who, parts: With) -> Response:
    return JSONResponse(await keypairs.get(parts.engine, who, access_key))


@router.patch("/{access_key}", summary="Change a key pair")
async def change(access_key: str, wish: ChangeKeypair, who: Who, parts: With) -> Response:
    """Its owner sets `is_active` and `is_main`; whoever administers the owner, `policy` and `rate_limit` too."""
    return JSONResponse(await keypairs.change(parts.engine, who, access_key, wish.sent()))


@router.delete("/{access_key}", status_code=204, summary="Delete a key pair")
async def remove(access_key: str, who: Who, parts: With) -> Response:
    """It opens nothing any more. Running sessions go on."""
    await keypairs.delete(parts.engine, who, access_key)
    return Response(status_code=204)
