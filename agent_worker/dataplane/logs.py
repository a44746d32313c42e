"""What a kernel wrote: from its container while there is one, then from what was kept of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from agent_worker.dataplane.access import Access, number
from agent_worker.dataplane.streamed import Streamed
from agent_worker.kept_logs import KeptLogs
from moorage.domain.errors import InvalidRequest, NotFound
from moorage.domain.log_lines import stamp_of


class Logs:
    def __init__(self, access: Access, kept: KeptLogs) -> None:
        self._access, self._kept = access, kept

    async def read(self, request: Request) -> Response:
        session_id, kernel_id = self._access.allow(request, "logs")
        attempt, tail, since = number(request, "attempt"), number(request, "tail"), _since(request)
        stamps = request.query_params.get("stamps") == "1"
        content: AsyncIterator[bytes]
        if container := await self._access.find(session_id, kernel_id, attempt):
            follow = request.query_params.get("follow") == "1"
            content = self._access.runtime.logs(container, follow=follow, tail=tail, since=since, stamps=stamps)
        elif kept := self._kept.find(session_id, kernel_id, attempt):
            content = kept.read(tail=tail, since=since, stamps=stamps)
        else:
            raise NotFound("this node has no log of it", code="no-logs")
        return Streamed(content, self._access.places.take(kernel_id), media_type="text/plain")


def _since(request: Request) -> str:
    text = request.query_params.get("since", "")
    if text and stamp_of(f"{text} ".encode()) != text:
        raise InvalidRequest(f"since is {text[:40]!r}; it must be UTC with nanoseconds")
    return text
