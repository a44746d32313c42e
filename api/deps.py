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
from api.changes import Changes
from api.lives import Lives
from api.rates import Rate, Rates, is_free
from api.recorded import Floods
from moorage.db.audit import asking
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
    lives: Lives
    changes: Changes
    nodes: httpx.AsyncClient
    rates: Rates
    floods: Floods
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than all the rest of a request.
async def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def authenticate(request: Request) -> None:
    """For the whole app: who asks, and whether this route is open to them at all. `Who` hands the result to a route."""
    needed = permissions.need(request.method, request.scope["route"].path)
    rates = (await parts(request)).rates
    _is_asked(request, needed)
    if needed == permissions.OPEN:
        if not is_free(request.scope["path"]):
            asked = asking.get()
            _count(request, await rates.count_anonymous(asked.address if asked else ""))
        return
    authorization = request.headers.get("authorization", "")
    if not authorization:
        raise Unauthenticated("log in: send an access key (Basic) or a token (Bearer)", hint="POST /auth/login")
    found = await (await parts(request)).authentication.principal(authorization)
    request.state.who = found
    _is_asked(request, needed, found)
    _count(request, await rates.count(found))
    permissions.check(found, needed)


def _is_asked(request: Request, needed: str, who: Principal | None = None) -> None:
    """The audit knows by whom, and what, whatever becomes of it."""
    if (asked := asking.get()) is not None:
        asked.who = who
        asked.operation = permissions.operation(needed, request.scope["route"].path)
        asked.entity_id = "/".join(str(value) for value in request.path_params.values())


def _count(request: Request, rate: Rate | None) -> None:
    request.state.rate = rate
    if rate is not None:
        rate.check()


async def who(request: Request) -> Principal:
    found: Principal = request.state.who
    return found


Who = Annotated[Principal, Depends(who)]
With = Annotated[Parts, Depends(parts)]
