"""What a request needs: the parts of the app, and who asks. Authentication stands before every route by default."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import httpx
from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection

from api import permissions
from api.auth.gate import Authentication
from api.auth.logins import Logins
from api.auth.oidc import Provider
from api.auth.proof import Proof
from api.auth.tokens import Clock
from api.changes import Changes
from api.lives import Lives
from api.rates import Rate, Rates, is_free
from api.recorded import Floods
from moorage.db.audit import asking
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
    streams: httpx.AsyncClient  # as many connections as there are streams; each node bounds its own
    rates: Rates
    floods: Floods
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


# FastAPI runs a dependency that is no coroutine in a thread, which costs more than all the rest of a request.
async def parts(connection: HTTPConnection) -> Parts:
    found: Parts = connection.app.state.parts
    return found


async def authenticate(connection: HTTPConnection) -> None:
    """For the whole app: who asks, and whether this route is open to them at all. `Who` hands the result to a route."""
    needed = permissions.need(connection.scope.get("method", "WEBSOCKET"), connection.scope["route"].path)
    rates = (await parts(connection)).rates
    _is_asked(connection, needed)
    if needed == permissions.OPEN:
        if not is_free(connection.scope["path"]):
            asked = asking.get()
            _count(connection, await rates.count_anonymous(asked.address if asked else ""))
        return
    found = await (await parts(connection)).authentication.principal(connection)
    connection.state.who = found
    _is_asked(connection, needed, found)
    _count(connection, await rates.count(found))
    permissions.check(found, needed)


def _is_asked(connection: HTTPConnection, needed: str, who: Principal | None = None) -> None:
    """The audit knows by whom, and what, whatever becomes of it."""
    if (asked := asking.get()) is not None:
        asked.who = who
        asked.operation = permissions.operation(needed, connection.scope["route"].path)
        asked.entity_id = "/".join(str(value) for value in connection.path_params.values())


def _count(connection: HTTPConnection, rate: Rate | None) -> None:
    connection.state.rate = rate
    if rate is not None:
        rate.check()


async def who(connection: HTTPConnection) -> Principal:
    found: Principal = connection.state.who
    return found


Who = Annotated[Principal, Depends(who)]
With = Annotated[Parts, Depends(parts)]
