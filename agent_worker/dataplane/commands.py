"""A command that runs to its end, and what it wrote."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agent_worker.dataplane.access import Access
from agent_worker.runtimes.contract import CreateRefused
from moorage.domain.errors import Conflict, InvalidRequest

_LONGEST_EXEC_S = 3600.0


class Commands:
    def __init__(self, access: Access) -> None:
        self._access = access

    async def execute(self, request: Request) -> Response:
        session_id, kernel_id = self._access.allow(request, "exec")
        command, timeout_s = await _order(request)
        container = await self._access.running(session_id, kernel_id)
        with self._access.places.take(kernel_id):
            try:
                result = await self._access.runtime.execute(container, command, timeout_s)
            except TimeoutError:
                raise Conflict(f"the command took longer than {timeout_s:g} s", code="exec-timeout") from None
            except CreateRefused as error:
                raise Conflict(str(error), code="exec-refused") from None
        self._access.uses.touch(kernel_id)
        return JSONResponse({"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr})


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
