"""Our own API without authentication and permissions: everybody is the same superadmin. For benchmarks only."""

from __future__ import annotations

import gc
import importlib
import socket
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from moorage.domain.permissions import BUILT_IN, Held, ScopeKind
from moorage.domain.tenancy import Principal
from moorage.settings import load_settings


def build(user_id: str) -> FastAPI:
    """The app as `moor api` serves it, on the settings of the environment; who asks is never looked at."""
    held = (Held(ScopeKind.GLOBAL, "", BUILT_IN["superadmin"]),)
    everybody = Principal(user_id, "bench@localhost", "superadmin", "default", "", held=held)

    async def anybody(request: Request) -> None:
        request.state.who = everybody
        request.state.rate = None  # nobody is counted

    gateway: Any = importlib.import_module("api.main")
    gateway.authenticate = anybody  # an override of FastAPI's would look into every dependency at every request
    app: FastAPI = gateway.build(load_settings())
    return app


def serve(user_id: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    app = build(user_id)
    gc.freeze()  # as the API does
    config = uvicorn.Config(app, loop="uvloop", http="httptools", log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(*sys.argv[1:])
