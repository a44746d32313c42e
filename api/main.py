"""The gateway. Stateless: run as many as you like."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import uvicorn
from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline

from api import errors, permissions
from api.auth.gate import Authentication
from api.changes import Changes
from api.deps import Parts, authenticate
from api.limits import BodyLimit
from api.lives import Lives, TemporalLives
from api.routes import agents, cluster, decisions, graphql, groups, limits, metrics, sessions, stats
from moorage import log
from moorage.db.engine import connect as connect_database
from moorage.domain.errors import MoorageError
from moorage.seal import Seal
from moorage.settings import Settings, load_settings, require
from moorage.temporal import connect

_ROOMS = (cluster, sessions, stats, metrics, decisions, agents, groups, limits, graphql)


def build(settings: Settings, lives: Lives | None = None) -> FastAPI:
    """The app. `lives` is the seam to Temporal; without it a client is connected at the first use."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine, seal = connect_database(settings.database_url), Seal(settings.payload_keys)
        changes = Changes(settings.database_url)
        listening = asyncio.create_task(changes.listen())
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=500)) as nodes:
            app.state.parts = Parts(
                settings=settings,
                engine=engine,
                seal=seal,
                authentication=Authentication(engine, seal, settings.jwt_key),
                lives=lives or TemporalLives(await connect(settings, lazy=True)),
                changes=changes,
                nodes=nodes,
            )
            yield
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
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
    for room in _ROOMS:
        app.include_router(room.router)
    permissions.check_table([*app.routes, *(route for room in _ROOMS for route in room.router.routes)])
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    return app


def _complete(app: FastAPI) -> None:
    """The document names every way to log in, and how each refusal looks, so that clients and /docs can use them."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        components = document.setdefault("components", {})
        components["securitySchemes"] = {
            "access key": {"type": "http", "scheme": "basic", "description": "access key and secret key"},
            "token": {"type": "http", "scheme": "bearer", "description": "from POST /auth/login"},
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
        require(settings, "database_url", "payload_keys", "jwt_key", "dataplane_key")
    except MoorageError as error:
        sys.exit(f"moor api: {error.message}")
    log.configure(settings.log_level, settings.log_format, role="api")
    app = build(settings)
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
