"""Domains over REST."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.tenant_schemas import ChangeDomain, CreateDomain, Limit, Offset
from moorage.db import domains

router = APIRouter(prefix="/domain", tags=["domains"])


@router.get("", summary="The domains that one may see")
async def index(who: Who, parts: With, deleted: bool = False, limit: Limit = 20, offset: Offset = 0) -> Response:
    """By name. With `deleted=true` those that were deleted and are not purged."""
    items, total = await domains.index(parts.engine, who, deleted=deleted, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("", status_code=201, summary="Make a domain")
async def create(wish: CreateDomain, who: Who, parts: With) -> Response:
    return JSONResponse(await domains.create(parts.engine, who, **wish.model_dump()), 201)


@router.get("/{name}", summary="One domain")
async def show(name: str, who: Who, parts: With) -> Response:
    return JSONResponse(await domains.get(parts.engine, who, name))


@router.patch("/{name}", summary="Change a domain")
async def change(name: str, wish: ChangeDomain, who: Who, parts: With) -> Response:
    """A domain's own administrators change the description only. Nobody of an inactive domain gets in."""
    return JSONResponse(await domains.change(parts.engine, who, name, wish.sent()))


@router.delete("/{name}", summary="Delete a domain")
async def remove(name: str, who: Who, parts: With, dry_run: bool = False) -> Response:
    """Answers what it owned. Refused while users or projects are left; `dry_run=true` only tells."""
    owns = await (domains.owned if dry_run else domains.delete)(parts.engine, who, name)
    return JSONResponse({"owns": owns})


@router.post("/{name}/purge", summary="Remove what is left of a deleted domain for good")
async def purge(name: str, who: Who, parts: With) -> Response:
    return JSONResponse({"removed": await domains.purge(parts.engine, who, name)})
