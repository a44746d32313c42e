"""Sessions that run, as far as the database knows, on nodes that a real data plane answers for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from agent_worker import dataplane
from agent_worker.idle_watch import IdleWatch, Tell
from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.activities import IdleReport
from moorage.db import nodes
from moorage.domain.idle import IdlePolicy
from moorage.domain.session import KernelSpec
from tests.support.builders import an_agent
from tests.support.gateway import Gateway

KEY = "d" * 32


class SilentNode(httpx.AsyncBaseTransport):
    """Refuses every connection."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused", request=request)


class TalkingNode(httpx.AsyncBaseTransport):
    """Answers what no node would."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=self._answer, request=request)


async def _told_nobody(session_id: str, report: IdleReport) -> None:
    """What a node says of idleness goes nowhere."""


@dataclass
class Cluster:
    """Nodes by name, each with a simulated runtime and its meter; `time` is theirs, and passes when it is set."""

    gateway: Gateway
    folder: Path
    time: float = 0.0
    runtimes: dict[str, SimulatedRuntime] = field(default_factory=dict)
    meters: dict[str, Meter] = field(default_factory=dict)
    watches: dict[str, IdleWatch] = field(default_factory=dict)
    transports: dict[str, httpx.AsyncBaseTransport] = field(default_factory=dict)

    async def add(self, agent_id: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        address = f"http://{agent_id}"
        await nodes.register(self.gateway.engine, replace(an_agent(agent_id, cpu=16_000), address=address))
        runtime = SimulatedRuntime(self.folder / f"{agent_id}.json")
        meter = Meter(runtime, runtime.devices, clock=lambda: self.time)
        logs = KeptLogs(self.folder / agent_id, cap_bytes=1000)
        watch = IdleWatch(runtime, meter, clock=lambda: self.time, now=lambda: self.time)
        app = dataplane.build(runtime, logs, agent_id=agent_id, key=KEY, meter=meter, idle=watch.seen)
        self.runtimes[agent_id], self.meters[agent_id], self.watches[agent_id] = runtime, meter, watch
        self.transports[address] = transport or httpx.ASGITransport(app)
        self.gateway.app.state.parts.nodes = httpx.AsyncClient(mounts={**self.transports})

    async def run(self, session: Mapping[str, Any], *agents: str, idle: IdlePolicy | None = None, **env: str) -> None:
        """Its kernels run, one on each of these nodes."""
        async with self.gateway.engine.begin() as connection:
            rows = await connection.execute(
                text("SELECT id FROM kernels WHERE session_id = :id ORDER BY role, idx"), {"id": session["id"]}
            )
            kernels = [str(one) for one in rows.scalars()]
            for kernel, agent in zip(kernels, agents, strict=True):
                await connection.execute(
                    text("UPDATE kernels SET agent_id = :agent WHERE id = :id"), {"id": kernel, "agent": agent}
                )
            await connection.execute(
                text("UPDATE sessions SET status = 'RUNNING', started_at = now(), agent_id = :agent WHERE id = :id"),
                {"id": session["id"], "agent": agents[0]},
            )
        for kernel, agent in zip(kernels, agents, strict=True):
            await self.runtimes[agent].create(
                KernelSpec(session["id"], kernel, 0, agent, "img", [], dict(env), dict(session["slots"]), idle=idle)
            )

    async def pass_time(self, seconds: float = 31, tell: Tell = _told_nobody) -> None:
        """Two looks, so that there are rates."""
        for _ in range(2):
            self.time += seconds
            for name, meter in self.meters.items():
                await meter.look()
                await self.watches[name].look(tell)

    async def close(self) -> None:
        for runtime in self.runtimes.values():
            await runtime.close()
