"""A load generator in a process of its own: a plan as JSON on stdin, what came of it as JSON on stdout."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import uvloop

from moorage.cli.bench.connection import Connection

_ANSWER_S = 30.0


@dataclass(slots=True)
class _Target:
    name: str
    connections: list[Connection]
    requests: cycle[bytes]
    took_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    async def press(self, seconds: float) -> None:
        """All connections ask without pause until the time is over; each answer must be a 200."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in self.connections:
                group.create_task(self._press(connection, began + seconds))
        self.seconds += time.perf_counter() - began

    async def _press(self, connection: Connection, until: float) -> None:
        now = time.perf_counter()
        while now < until:
            began = now
            status, body = await connection.ask(next(self.requests))
            now = time.perf_counter()
            if status != 200:
                raise RuntimeError(f"{self.name} answers {status}: {body[:200]!r}")
            self.took_ms.append((now - began) * 1000)


async def run(plan: dict[str, Any]) -> dict[str, Any]:
    """The targets take turns in slices. The first turn isn't counted: it fills caches on all sides."""
    targets = [
        _Target(
            target["name"],
            [Connection("127.0.0.1", target["port"]) for _ in range(plan["connections"])],
            cycle([one.encode() for one in target["requests"]]),
        )
        for target in plan["targets"]
    ]
    for turn in range(plan["slices"] + 1):
        for target in targets:
            async with asyncio.timeout(plan["slice_s"] + _ANSWER_S):
                await target.press(plan["slice_s"])
            if turn == 0:
                target.took_ms.clear()
                target.seconds = 0.0
    return {target.name: {"seconds": target.seconds, "took_ms": target.took_ms} for target in targets}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
