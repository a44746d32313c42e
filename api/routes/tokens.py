"""Personal access tokens over REST."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from api.deps import Who, With
from api.schemas import Text
from moorage.db import tokens

router = APIRouter(prefix="/token", tags=["tokens"])


class CreateToken(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Text = Field(min_length=1, max_length=64)
    permissions: list[Annotated[Text, Field(max_length=80)]] = Field(
        min_length=1, max_length=100, description="entity:operation; * stands for every one that you hold"
    )
    expires_in_s: float = Field(default=30 * 86400.0, ge=1, le=tokens.LONGEST_S)


@router.post("", status_code=201, summary="Make a personal access token")
async def create(wish: CreateToken, who: Who, parts: With) -> Response:
    """`token` is shown here and never again. Send it as `Authorization: Bearer`."""
    made = await tokens.create(
        parts.engine, who, name=wish.name, permissions=wish.permissions, expires_in_s=wish.expires_in_s
    )
    return JSONResponse(made, 201, {"Cache-Control": "no-store"})


@router.get("", summary="Personal access tokens that still count")
async def index(
    who: Who,
    parts: With,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Response:
    """One's own, and for administrators those of their users. The tokens themselves are not kept."""
    items, total = await tokens.index(parts.engine, who, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.delete("/{token_id}", status_code=204, summary="Revoke a personal access token")
async def revoke(token_id: Text, who: Who, parts: With) -> Response:
    """At once, on every replica of the API."""
    await tokens.revoke(parts.engine, who, token_id)
    return Response(status_code=204)
