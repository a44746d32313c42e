"""What the API reads from the node: logs and exec, over HTTP, each call with a token for exactly that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.contract import CreateRefused, Runtime
from moorage.contracts.dataplane import check_token
from moorage.domain.errors import Conflict, MoorageError, NotFound, Unauthenticated
from moorage.domain.node import ContainerSeen

_LONGEST_EXEC_S = 3600.0


def build(runtime: Runtime, logs: KeptLogs, *, agent_id: str, key: str) -> Starlette:
    """The app described in moorage.contracts.dataplane."""

    def allow(request: Request, action: str) -> tuple[str, str]:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the data plane needs a token")
        kernel_id = request.path_params["kernel_id"]
        check_token(key, token, agent_id=agent_id, kernel_id=kernel_id, action=action)
        return request.path_params["session_id"], kernel_id

    async def find(kernel_id: str) -> ContainerSeen | None:
        found = [one for one in await runtime.containers() if one.kernel_id == kernel_id]
        return max(found, key=lambda one: one.attempt, default=None)

    async def read_logs(request: Request) -> Response:
        session_id, kernel_id = allow(request, "logs")
        container = await find(kernel_id)
        follow = request.query_params.get("follow") == "1"
        if container is not None:
            return StreamingResponse(runtime.logs(container, follow=follow), media_type="text/plain")
        kept = logs.newest(session_id, kernel_id)
        if kept is None:
            raise NotFound("this node has no log of it")

        async def once() -> AsyncIterator[bytes]:
            yield kept.read_bytes()

        return StreamingResponse(once(), media_type="text/plain")

    async def execute(request: Request) -> Response:
        _, kernel_id = allow(request, "exec")
        order = await request.json()
        container = await find(kernel_id)
        if container is None or container.state != "running":
            raise Conflict("the container does not run", code="session-not-running")
        timeout_s = min(float(order.get("timeout_s", 60)), _LONGEST_EXEC_S)
        try:
            result = await runtime.execute(container, list(order["command"]), timeout_s)
        except TimeoutError:
            raise Conflict(f"the command took longer than {timeout_s:g} s", code="exec-timeout") from None
        except CreateRefused as error:
            raise Conflict(str(error), code="exec-refused") from None
        return JSONResponse({"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr})

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
            Route("/exec/{session_id:uuid}/{kernel_id:uuid}", _as_text(execute), methods=["POST"]),
        ],
        exception_handlers={MoorageError: refuse},
    )


def _as_text(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Path ids are checked to be UUIDs, and handled as text."""

    async def handle(request: Request) -> Response:
        request.scope["path_params"] = {name: str(value) for name, value in request.path_params.items()}
        return await endpoint(request)

    return handle
