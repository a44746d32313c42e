"""Who may do what here: the token, the container it is for, and a place."""

from __future__ import annotations

from starlette.requests import HTTPConnection

from agent_worker.dataplane.places import Places
from agent_worker.runtimes.contract import Runtime
from agent_worker.uses import Uses
from moorage.contracts.dataplane import check_token
from moorage.domain.errors import Conflict, InvalidRequest, Unauthenticated
from moorage.domain.node import ContainerSeen


class Access:
    def __init__(self, runtime: Runtime, *, agent_id: str, key: str, places: Places, uses: Uses) -> None:
        self.runtime, self.places, self.uses = runtime, places, uses
        self.agent_id = agent_id
        self._key = key

    def check(self, connection: HTTPConnection, subject: str, action: str, *, session_id: str = "") -> None:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the data plane needs a token")
        check_token(self._key, token, agent_id=self.agent_id, kernel_id=subject, action=action, session_id=session_id)

    def allow(self, connection: HTTPConnection, action: str) -> tuple[str, str]:
        """(session, kernel) of the path, which the token must be for."""
        session_id, kernel_id = (str(connection.path_params[name]) for name in ("session_id", "kernel_id"))
        self.check(connection, kernel_id, action, session_id=session_id)
        return session_id, kernel_id

    async def find(self, session_id: str, kernel_id: str, attempt: int | None = None) -> ContainerSeen | None:
        """Of that attempt, else of the last one."""
        found = [
            one
            for one in await self.runtime.containers()
            if (one.session_id, one.kernel_id) == (session_id, kernel_id) and attempt in (None, one.attempt)
        ]
        return max(found, key=lambda one: one.attempt, default=None)

    async def running(self, session_id: str, kernel_id: str) -> ContainerSeen:
        """And somebody uses it now."""
        container = await self.find(session_id, kernel_id)
        if container is None or container.state != "running":
            raise Conflict("the container does not run", code="session-not-running")
        self.uses.touch(kernel_id)
        return container


def number(connection: HTTPConnection, name: str, *, least: int = 0, most: int = 2**31) -> int | None:
    """A whole number of the query; None if it is not given."""
    text = connection.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and least <= int(text) <= most):
        raise InvalidRequest(f"{name} is {text[:40]!r}; it must be a whole number from {least} to {most}")
    return int(text)
