"""The app described in moorage.contracts.dataplane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import httpx
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from agent_worker.dataplane.access import Access
from agent_worker.dataplane.commands import Commands
from agent_worker.dataplane.files import Files
from agent_worker.dataplane.logs import Logs
from agent_worker.dataplane.places import Places
from agent_worker.dataplane.ports import Ports
from agent_worker.dataplane.terminal import Terminals
from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.contract import Runtime
from agent_worker.uses import Uses
from moorage.contracts.dataplane import EVERY_KERNEL
from moorage.domain.errors import InvalidRequest, MoorageError, Unavailable
from moorage.domain.stats import KernelIdle, NodeStats

_KERNEL = "{session_id:uuid}/{kernel_id:uuid}"


def build(
    runtime: Runtime,
    logs: KeptLogs,
    *,
    agent_id: str,
    key: str,
    meter: Meter | None = None,
    places: Places | None = None,
    uses: Uses | None = None,
    idle: Callable[[str], list[KernelIdle]] = lambda session_id: [],
) -> Starlette:
    metered = meter or Meter(runtime)
    access = Access(runtime, agent_id=agent_id, key=key, places=places or Places(), uses=uses or Uses())
    files = Files(access)

    async def stats(request: Request) -> Response:
        session_id = str(request.path_params.get("session_id", ""))
        access.check(request, session_id or EVERY_KERNEL, "stats")
        kernels = metered.kernels(session_id, _seconds(request))
        if session_id:
            return JSONResponse(asdict(NodeStats(kernels=kernels, idle=idle(session_id))))
        return JSONResponse(asdict(NodeStats(metered.node(), metered.devices(), kernels, idle(""))))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "agent": agent_id})

    return Starlette(
        routes=[
            Route("/health", health),
            Route(f"/logs/{_KERNEL}", Logs(access, logs).read),
            Route("/stats", stats),
            Route("/stats/{session_id:uuid}", stats),
            Route(f"/exec/{_KERNEL}", Commands(access).execute, methods=["POST"]),
            WebSocketRoute(f"/terminal/{_KERNEL}", Terminals(access).open),
            Route(f"/files/{_KERNEL}", files.read, methods=["GET"]),
            Route(f"/files/{_KERNEL}", files.write, methods=["PUT"]),
            WebSocketRoute(f"/ports/{_KERNEL}/{{port:int}}", Ports(access).open),
        ],
        exception_handlers={MoorageError: _refuse, httpx.HTTPError: _refuse_without_docker},
    )


async def _refuse(connection: HTTPConnection, error: Exception) -> Response:
    """For a WebSocket that is not open yet too."""
    assert isinstance(error, MoorageError)
    body = {
        "type": f"urn:moorage:problem:{error.code}",
        "title": error.message,
        "code": error.code,
        "hint": error.hint,
    }
    return JSONResponse(body, status_code=error.status, media_type="application/problem+json")


async def _refuse_without_docker(connection: HTTPConnection, error: Exception) -> Response:
    return await _refuse(connection, Unavailable("Docker does not answer on this node; try again"))


def _seconds(request: Request) -> float:
    text = request.query_params.get("since_s", "0")
    if not text.replace(".", "", 1).isdecimal():
        raise InvalidRequest(f"since_s is {text[:40]!r}; it must be a number of seconds")
    return float(text)
