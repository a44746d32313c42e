"""Secrets over REST: written, listed by name, removed. No route answers a value."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.schemas import Text
from api.secret_schemas import PutSecret
from moorage.db import secrets
from moorage.domain.secrets import checked_secret_name

router = APIRouter(prefix="/secret", tags=["secrets"])


@router.get("", summary="The secrets that one may use, by name")
async def index(who: Who, parts: With) -> Response:
    """One's own and those of one's projects."""
    return JSONResponse({"items": await secrets.index(parts.engine, who)})


@router.put("/{name}", summary="Set a secret")
async def put(name: str, wish: PutSecret, who: Who, parts: With) -> Response:
    """One's own, or a project's. 201 for a new one, 200 for a new value; sessions that run keep what they got."""
    shown, made = await secrets.put(
        parts.engine, parts.seal, who, checked_secret_name(name), wish.content(), project=wish.project
    )
    return JSONResponse(shown, 201 if made else 200)


@router.delete("/{name}", status_code=204, summary="Remove a secret")
async def remove(name: str, who: Who, parts: With, project: Text | None = None, force: bool = False) -> Response:
    """Refused while live sessions refer to it; with `force=true`, those that wait start without it."""
    await secrets.remove(parts.engine, who, checked_secret_name(name), project=project, forced=force)
    return Response(status_code=204)
