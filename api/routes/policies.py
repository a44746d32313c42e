"""Resource policies over REST. They are of the whole cluster: everybody reads them, superadmins write them."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.quota_schemas import ChangePolicy, CreatePolicy
from moorage.db import policies
from moorage.domain.tenancy import PolicyKind

router = APIRouter(prefix="/policy", tags=["policies"])


@router.get("", summary="The resource policies")
async def index(who: Who, parts: With, kind: PolicyKind | None = None) -> Response:
    """`used_by`: how many carry it. Slots in base units."""
    return JSONResponse({"items": await policies.index(parts.engine, kind)})


@router.get("/{kind}/{name}", summary="One resource policy")
async def show(kind: PolicyKind, name: str, who: Who, parts: With) -> Response:
    return JSONResponse(await policies.get(parts.engine, kind, name))


@router.post("", status_code=201, summary="Make a resource policy")
async def create(wish: CreatePolicy, who: Who, parts: With) -> Response:
    """Superadmins. What is left out is unlimited."""
    return JSONResponse(await policies.create(parts.engine, who, wish.kind, wish.name, wish.given()), 201)


@router.patch("/{kind}/{name}", summary="Change a resource policy")
async def change(kind: PolicyKind, name: str, wish: ChangePolicy, who: Who, parts: With) -> Response:
    """Superadmins. What is left out stays; null lifts a limit. Live at once for all who carry it."""
    return JSONResponse(await policies.change(parts.engine, who, kind, name, wish.given()))


@router.delete("/{kind}/{name}", status_code=204, summary="Remove a resource policy")
async def remove(kind: PolicyKind, name: str, who: Who, parts: With) -> Response:
    """Superadmins. Refused while somebody carries it."""
    await policies.remove(parts.engine, who, kind, name)
    return Response(status_code=204)
