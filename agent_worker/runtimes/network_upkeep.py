"""What keeps the networks of a node as they should be while the agent works."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import requests
from docker.errors import DockerException

from agent_worker.runtimes.egress import Egress
from agent_worker.runtimes.networks import Networks
from agent_worker.runtimes.programs import ProgramFailed
from moorage import log

_EVERY_S = 10.0
# Without a gang's network there is nothing to look after. Docker's listing of networks is not free, and one release of
# it has been seen to lock itself up over a listing and a removal at once.
_WITHOUT_GANGS_S = 300.0

_log = log.get("networks")


async def tend(networks: Networks, egress: Egress, call: Callable[[Callable[[], object]], Awaitable[object]]) -> None:
    """For ever: rules that somebody flushed are made again, what has no container goes. `call` runs it in a thread."""
    said: object = ""
    look_at = 0.0
    while True:
        warning = await call(egress.warning)
        if warning != said:
            _log.warning("egress is not refused", why=warning) if warning else _log.info(
                "egress is refused as it should be"
            )
            said = warning
        try:
            if networks.has_gangs or time.monotonic() >= look_at:
                look_at = time.monotonic() + (_EVERY_S if await call(networks.sweep) else _WITHOUT_GANGS_S)
        except (DockerException, requests.RequestException, OSError, ProgramFailed) as error:
            _log.warning("networks are not tended", error=str(error)[:200])
        await asyncio.sleep(_EVERY_S)
