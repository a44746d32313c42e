"""What the API reads from the node: logs, exec and stats, over HTTP, each call with a token for exactly that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.contract import CreateRefused, Runtime
from moorage.contracts.dataplane import EVERY_KERNEL, check_token
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError, NotFound, Unauthenticated
from moorage.domain.node import ContainerSeen
from moorage.domain.stats import KernelIdle, NodeStats

_LONGEST_EXEC_S = 3600.0


def build(
    runtime: Runtime,
    logs: KeptLogs,
    *,
    agent_id: str,
    key: str,
    meter: Meter | None = None,
    idle: Callable[[str], list[KernelIdle]] = lambda session_id: [],
) -> Starlette:
    """The app described in moorage.contracts.dataplane."""
    metered = meter or Meter(runtime)

    def check(request: Request, subject: str, action: str) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the data plane needs a token")
        check_token(key, token, agent_id=agent_id, kernel_id=subject, action=action)

    def allow(request: Request, action: str) -> tuple[str, str]:
        kernel_id = request.path_params["kernel_id"]
        check(request, kernel_id, action)
        return request.path_params["session_id"], kernel_id

    async def find(session_id: str, kernel_id: str) -> ContainerSeen | None:
        seen = await runtime.containers()
        found = [one for one in seen if (one.session_id, one.kernel_id) == (session_id, kernel_id)]
        return max(found, key=lambda one: one.attempt, default=None)

    async def read_logs(request: Request) -> Response:
        session_id, kernel_id = allow(request, "logs")
        follow, tail = request.query_params.get("follow") == "1", _tail(request)
        container = await find(session_id, kernel_id)
        if container is not None:
            return StreamingResponse(runtime.logs(container, follow=follow, tail=tail), media_type="text/plain")
        kept = logs.newest(session_id, kernel_id)
        if kept is None:
            raise NotFound("this node has no log of it")
        return Response(_last_lines(await asyncio.to_thread(kept.read_bytes), tail), media_type="text/plain")

    async def execute(request: Request) -> Response:
        session_id, kernel_id = allow(request, "exec")
        command, timeout_s = await _order(request)
        container = await find(session_id, kernel_id)
        if container is None or container.state != "running":
            raise Conflict("the container does not run", code="session-not-running")
        try:
            result = await runtime.execute(container, command, timeout_s)
        except TimeoutError:
            raise Conflict(f"the command took longer than {timeout_s:g} s", code="exec-timeout") from None
        except CreateRefused as error:
            raise Conflict(str(error), code="exec-refused") from None
        return JSONResponse({"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr})

    async def stats(request: Request) -> Response:
        session_id = request.path_params.get("session_id", "")
        check(request, session_id or EVERY_KERNEL, "stats")
        kernels = metered.kernels(session_id, _seconds(request))
        if session_id:
            return JSONResponse(asdict(NodeStats(kernels=kernels, idle=idle(session_id))))
        return JSONResponse(asdict(NodeStats(metered.node(), metered.devices(), kernels, idle(""))))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "agent": agent_id})

    def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, MoorageError)
        body = {"type": f"urn:moorage:problem:{error.code}", "title": error.message, "code": error.code}
        return JSONResponse(body, status_code=error.status, media_type="application/problem+json")

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/logs/{session_id:uuid}/{kernel_id:uuid}", _as_text(read_logs)),
            Route("/stats", stats),
            Route("/stats/{session_id:uuid}", _as_text(stats)),
            Route("/exec/{session_id:uuid}/{kernel_id:uuid}", _as_text(execute), methods=["POST"]),
        ],
        exception_handlers={MoorageError: refuse},
    )


def _tail(request: Request) -> int | None:
    text = request.query_params.get("tail")
    if text is None:
        return None
    if not text.isdecimal():
        raise InvalidRequest(f"tail is {text[:40]!r}; it must be a number of lines")
    return int(text)


def _seconds(request: Request) -> float:
    text = request.query_params.get("since_s", "0")
    if not text.replace(".", "", 1).isdecimal():
        raise InvalidRequest(f"since_s is {text[:40]!r}; it must be a number of seconds")
    return float(text)


def _last_lines(text: bytes, tail: int | None) -> bytes:
    lines = text.splitlines(keepends=True)
    return text if tail is None else b"".join(lines[max(0, len(lines) - tail) :])


async def _order(request: Request) -> tuple[list[str], float]:
    """The command and its time limit in seconds."""
    try:
        order = await request.json()
        command, timeout_s = order["command"], float(order.get("timeout_s", 60))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidRequest('the body must be {"command": [...], "timeout_s": seconds}') from None
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise InvalidRequest("command must be a list of words, with at least one")
    return command, min(timeout_s, _LONGEST_EXEC_S)


def _as_text(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Path ids are checked to be UUIDs, and handled as text."""

    async def handle(request: Request) -> Response:
        request.scope["path_params"] = {name: str(value) for name, value in request.path_params.items()}
        return await endpoint(request)

    return handle
