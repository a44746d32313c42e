"""The gateway. Stateless: run as many as you like."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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
from api.deps import Parts, authenticate
from api.limits import BodyLimit
from api.lives import Lives, TemporalLives
from api.routes import agents, auth, cluster, decisions, groups, limits, oidc, sessions, tokens
from moorage import log
from moorage.db.engine import connect as connect_database
from moorage.domain.errors import MoorageError
from moorage.seal import Seal
from moorage.settings import Settings, load_settings, require
from moorage.temporal import connect

_ROOMS = (cluster, auth, oidc, sessions, decisions, agents, groups, limits, tokens)


def build(settings: Settings, lives: Lives | None = None, clock: Clock = time.time) -> FastAPI:
    """The app. `lives` is the seam to Temporal; without it a client is connected at the first use."""
    key_ring(settings.jwt_keys)
    provider = provider_of(settings, clock)

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
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=500)) as nodes:
            app.state.parts = Parts(
                settings=settings,
                engine=engine,
                seal=seal,
                authentication=Authentication(engine, seal, signed, memory),
                proof=proof,
                logins=logins,
                provider=provider,
                clock=clock,
                lives=lives or TemporalLives(await connect(settings, lazy=True)),
                changes=changes,
                nodes=nodes,
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
    _tell_how_to_log_in(app)
    for room in _ROOMS:
        app.include_router(room.router)
    permissions.check_table([*app.routes, *(route for room in _ROOMS for route in room.router.routes)])
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    return app


def _tell_how_to_log_in(app: FastAPI) -> None:
    """The document names both ways, so that clients and the page at /docs can use them."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {})["securitySchemes"] = {
            "access key": {"type": "http", "scheme": "basic", "description": "access key and secret key"},
            "token": {"type": "http", "scheme": "bearer", "description": "from POST /auth/login or POST /token"},
        }
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                is_open = permissions.is_open(method, path)
                operation["security"] = [] if is_open else [{"access key": []}, {"token": []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def main() -> None:
    try:
        settings = load_settings()
        require(settings, "database_url", "payload_keys", "jwt_keys", "dataplane_key")
    except MoorageError as error:
        sys.exit(f"moor api: {error.message}")
    log.configure(settings.log_level, settings.log_format, role="api")
    try:
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
        timeout_graceful_shutdown=3,
    )


if __name__ == "__main__":
    main()
