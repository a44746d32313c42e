"""What a request needs: the parts of the app, and who asks. Authentication stands before every route by default."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from api import permissions
from api.auth.gate import Authentication
from api.auth.logins import Logins
from api.auth.oidc import Provider
from api.auth.proof import Proof
from api.auth.tokens import Clock
from api.changes import Changes
from api.lives import Lives
from moorage.domain.errors import Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal
from moorage.settings import Settings


@dataclass(slots=True)
class Parts:
    settings: Settings
    engine: AsyncEngine
    seal: Seal
    authentication: Authentication
    proof: Proof
    logins: Logins
    provider: Provider | None
    clock: Clock
    lives: Lives
    changes: Changes
    nodes: httpx.AsyncClient
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than all the rest of a request.
async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def authenticate(request: Request) -> None:
    """For the whole app: who asks, and whether this route is open to them at all. `Who` hands the result to a route."""
    needed = permissions.need(request.method, request.scope["route"].path)
    if needed == permissions.OPEN:
        return
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise Unauthenticated("log in: send an access key (Basic) or a token (Bearer)", hint="POST /auth/login")
    found = await (await parts(request)).authentication.principal(authorization)
    request.state.who = found
    permissions.check(found, needed)


async def who(request: Request) -> Principal:
    found: Principal = request.state.who
    return found


Who = Annotated[Principal, Depends(who)]
With = Annotated[Parts, Depends(parts)]
