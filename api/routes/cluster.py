"""The cluster and health over REST."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text

from api.deps import Who, With
from moorage.db import quotas, sessions

router = APIRouter()


@router.get("/", summary="API version", tags=["system"])
async def version() -> dict[str, str]:
    """What Backend.AI's clients ask first."""
    return {"version": "v9.20250722", "manager": "moorage 0.1.0"}


@router.get("/resource", summary="What the cluster has and holds", tags=["cluster"])
async def resource(who: Who, parts: With) -> Response:
    """Base units: cpu in millicores, mem in bytes. `quotas`: what one's key, oneself, one's projects and the domain
    use, and may.
    """
    cluster = await sessions.cluster(parts.engine)
    return JSONResponse({**cluster, "quotas": await quotas.own(parts.engine, who)})


@router.get("/health/live", summary="This process works", tags=["system"])
async def live() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/health/ready", summary="All that a request needs is there", tags=["system"])
async def ready(parts: With) -> Response:
    checks = {"database": await _database(parts), "temporal": await parts.lives.is_reachable()}
    well = all(checks.values())
    words = {name: "ok" if up else "away" for name, up in checks.items()}
    return JSONResponse({"status": "ok" if well else "away", "checks": words}, 200 if well else 503)


async def _database(parts: With) -> bool:
    try:
        async with parts.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except Exception:
        return False
    return True
