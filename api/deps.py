"""What a request needs: the parts of the app, and who asks. Authentication stands before every route by default."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth import Authentication
from api.changes import Changes
from api.lives import Lives
from moorage.db.tenancy import Principal
from moorage.domain.errors import Forbidden, Unauthenticated
from moorage.seal import Seal
from moorage.settings import Settings

# All that may be asked without saying who one is.
OPEN_ROUTES = frozenset({"/", "/health/live", "/health/ready", "/auth/login", "/docs", "/openapi.json"})


@dataclass(slots=True)
class Parts:
    settings: Settings
    engine: AsyncEngine
    seal: Seal
    authentication: Authentication
    lives: Lives
    changes: Changes
    nodes: httpx.AsyncClient
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than all the rest of a request.
async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def authenticate(request: Request) -> None:
    """For the whole app; `Who` hands the result to a route."""
    route = request.scope.get("route")
    if route is not None and route.path in OPEN_ROUTES:
        return
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise Unauthenticated("log in: send an access key (Basic) or a token (Bearer)", hint="POST /auth/login")
    request.state.who = await (await parts(request)).authentication.principal(authorization)


async def who(request: Request) -> Principal:
    found: Principal = request.state.who
    return found


async def admin(request: Request) -> Principal:
    """Like `who`, for what only superadmins may do."""
    found = await who(request)
    if not found.sees_all:
        raise Forbidden(f"only superadmins may do this; {found.email} is a {found.role}")
    return found


Who = Annotated[Principal, Depends(who)]
Admin = Annotated[Principal, Depends(admin)]
With = Annotated[Parts, Depends(parts)]
