"""A connection to a port of a container: from within its network where the agent may enter it, else by its address."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from agent_worker.runtimes import reach
from agent_worker.runtimes.contract import PortClosed
from agent_worker.runtimes.engine import Engine

_WITHIN_S = 5.0
_CHUNK = 64 * 1024
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(engine: Engine, container_id: str, port: int) -> Opened:
    """From within, what listens on the container's loopback alone is reached too."""
    found = await _inspect(engine, container_id)
    first, addresses = int(found["State"]["Pid"]), await _addresses(engine, found)
    try:
        opened = await _first(reach.sockets_within(first), port, addresses)
    except OSError:  # not root here, or Docker is elsewhere
        opened = await _first([socket.socket(socket.AF_INET, socket.SOCK_STREAM)], port, addresses, outside=True)
    if opened is None:
        raise PortClosed(f"nothing answers on port {port} of the container")
    return opened


async def _first(made: list[socket.socket], port: int, addresses: list[str], *, outside: bool = False) -> Opened | None:
    """The first socket that gets an answer; the others are closed."""
    ways = [] if outside else [(one, _LOOPBACK[one.family]) for one in made]
    ways += [(one, address) for one in made for address in addresses if one.family == socket.AF_INET]
    opened = None
    for way, address in ways:
        with suppress(OSError, TimeoutError):
            way.setblocking(False)
            async with asyncio.timeout(_WITHIN_S):
                await asyncio.get_running_loop().sock_connect(way, (address, port))
            opened = await asyncio.open_connection(sock=way, limit=_CHUNK)
            made.remove(way)
            break
    for unused in made:
        unused.close()
    return opened


async def _addresses(engine: Engine, found: dict[str, Any]) -> list[str]:
    """Its own; of the container whose network it shares, if it shares one."""
    shared = str(found["HostConfig"]["NetworkMode"])
    if shared.startswith("container:"):
        found = await _inspect(engine, shared.removeprefix("container:"))
    networks = (found["NetworkSettings"].get("Networks") or {}).values()
    return [str(one["IPAddress"]) for one in networks if one.get("IPAddress")]


async def _inspect(engine: Engine, container_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await engine.ask("GET", f"/containers/{container_id}/json")).json()
    return found
