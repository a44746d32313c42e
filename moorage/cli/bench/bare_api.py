"""The floor of a read over REST: two FastAPI handlers on asyncpg with Moorage's SQL. Says its port on stdout."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from moorage.db.sessions import find_query, page_query


def build(database_url: str, link: str, user_id: str) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = await asyncpg.create_pool(database_url, min_size=10, max_size=20, reset=_nothing)
        yield
        await app.state.pool.close()

    app = FastAPI(lifespan=lifespan)

    @app.get("/session/{ref}")
    async def show(ref: str) -> JSONResponse:
        row = await app.state.pool.fetchrow(find_query(ref), ref, ref, user_id)
        return JSONResponse(_shown(row, link))

    @app.get("/session")
    async def index(limit: int = 20, offset: int = 0) -> JSONResponse:
        rows = await app.state.pool.fetch(page_query(), limit, offset)
        total = rows[0]["total"] if rows else 0
        items = [_shown(row, link) for row in rows]
        return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})

    return app


async def _nothing(connection: asyncpg.Connection) -> None:
    """A read leaves nothing behind that a connection must be cleaned of."""


def _shown(row: Mapping[str, Any], link: str) -> dict[str, Any]:
    shown = {key: _value(value) for key, value in row.items() if key not in (*_JSON, *_UNSHOWN)}
    held = {key: json.loads(row[key]) for key in _JSON if key in row}
    return {**shown, **held, "links": {"temporal": f"{link}{row['id']}"}}


_UNSHOWN = ("total", "owner_id", "project_id")
_JSON = ("slots", "kernels", "dependencies")


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, (str, int, float, bool, list, dict, type(None))) else str(value)


def serve(database_url: str, link: str, user_id: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = build(database_url, link, user_id)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(*sys.argv[1:])
