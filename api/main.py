"""The gateway. Stateless: run as many as you like."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from api import errors, permissions
from api.auth.gate import Authentication
from api.auth.lockout import Lockout
from api.auth.logins import Logins
from api.auth.memory import Memory
from api.auth.oidc import provider_of
from api.auth.proof import Proof
from api.auth.tokens import Clock, Tokens, key_ring
from api.changes import Changes
from api.counted import Counted
from api.deps import Parts, authenticate
from api.limits import BodyLimit
from api.lives import Lives, TemporalLives
from api.origin import Origin, parse_networks
from api.rates import Rates, windows_for
from api.recorded import Floods, Recorded
from api.routes import (
    agents,
    audit,
    auth,
    cluster,
    decisions,
    domains,
    grants,
    graphql,
    groups,
    idle,
    keypairs,
    limits,
    metrics,
    oidc,
    policies,
    projects,
    quotas,
    roles,
    secrets,
    sessions,
    stats,
    tokens,
    users,
)
from moorage import log
from moorage.db.engine import connect as connect_database
from moorage.domain.errors import MoorageError
from moorage.seal import Seal
from moorage.settings import Settings, load_settings, require
from moorage.temporal import connect

_trust = cache(httpx.create_ssl_context)  # reading the certificates takes 25 ms
# Routes are looked for in this order: what is asked most comes first.
ROOMS = (
    sessions,
    agents,
    audit,
    auth,
    cluster,
    decisions,
    domains,
    grants,
    graphql,
    groups,
    idle,
    keypairs,
    limits,
    metrics,
    oidc,
    policies,
    projects,
    quotas,
    roles,
    secrets,
    stats,
    tokens,
    users,
)


def build(settings: Settings, lives: Lives | None = None, clock: Clock = time.time) -> FastAPI:
    """The app. `lives` is the seam to Temporal; without it a client is connected at the first use."""
    key_ring(settings.jwt_keys)
    provider = provider_of(settings, clock)

    trusted, windows = parse_networks(settings.trusted_proxies), windows_for(settings.rate_limit_storage)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine, seal = connect_database(settings.database_url), Seal(settings.payload_keys)
        memory = Memory(settings.database_url, clock=clock)
        changes = Changes(settings.database_url)
        signed = Tokens(engine, settings.jwt_keys, lifetime_s=settings.access_lifetime_s, clock=clock)
        lockout = Lockout(engine, threshold=settings.login_attempts, clock=clock)
        proof = Proof(
            engine, seal, lockout, max_age_days=settings.password_max_age_days, clock=clock, forget=memory.forget
        )
        logins = Logins(engine, proof, signed, lifetime_s=settings.login_lifetime_s, clock=clock, forget=memory.forget)
        listening = [asyncio.create_task(one.listen()) for one in (changes, memory)]
        async with httpx.AsyncClient(verify=_trust(), limits=httpx.Limits(max_connections=500)) as nodes:
            app.state.parts = Parts(
                settings=settings,
                engine=engine,
                seal=seal,
                authentication=Authentication(engine, seal, signed, memory, clock),
                proof=proof,
                logins=logins,
                provider=provider,
                clock=clock,
                lives=lives or TemporalLives(await connect(settings, lazy=True)),
                changes=changes,
                nodes=nodes,
                rates=Rates(windows, anonymous=settings.anonymous_rate_limit),
                floods=Floods(),
            )
            yield
        for task in listening:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*app.state.parts.tasks, return_exceptions=True)
        await engine.dispose()

    app = FastAPIOffline(
        title="Moorage",
        version="0.1.0",
        description="Compute sessions on a cluster, each life one durable workflow.",
        lifespan=lifespan,
        redirect_slashes=False,
        dependencies=[Depends(authenticate)],
        redoc_url=None,
    )
    errors.install(app)
    _complete(app)
    for room in ROOMS:
        app.include_router(room.router)
    permissions.check_table([*app.routes, *(route for room in ROOMS for route in room.router.routes)])
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(Counted)
    app.add_middleware(Recorded)
    app.add_middleware(Origin, trusted=trusted)  # the last one is asked first
    return app


def _complete(app: FastAPI) -> None:
    """The document names every way to log in, and how each refusal looks, so that clients and /docs can use them."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {
            "access key": {"type": "http", "scheme": "basic", "description": "access key and secret key"},
            "token": {"type": "http", "scheme": "bearer", "description": "from POST /auth/login or POST /token"},
        }
        schemas = components.setdefault("schemas", {})
        schemas["Problem"] = errors.PROBLEM_SCHEMA
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                is_open = permissions.is_open(method, path)
                operation["security"] = [] if is_open else [{"access key": []}, {"token": []}]
                operation["responses"].pop("422", None)
                operation["responses"] |= _REFUSALS
        return document

    app.openapi = openapi  # type: ignore[method-assign]


_A_PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
_REFUSALS = {
    "4XX": {"description": "What was wrong, and what to do", "content": _A_PROBLEM},
    "503": {"description": "A part is away for a moment", "content": _A_PROBLEM},
}


def main() -> None:
    try:
        settings = load_settings()
        require(settings, "database_url", "payload_keys", "jwt_keys", "dataplane_key")
        log.configure(settings.log_level, settings.log_format, role="api")
        app = build(settings)
    except MoorageError as error:
        sys.exit(f"moor api: {error.message}")
    gc.freeze()  # what was loaded stays: not looking through it for garbage halves the p99 of lists
    uvicorn.run(
        app,
        host=settings.api_host,
        port=settings.api_port,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # it would believe whoever connects from this machine; api/origin.py knows whom to
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main()
