"""What the node says of its devices, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import ActivityEnvironment

from agent_worker.accelerators.simulated import Simulated, simulated_devices
from agent_worker.inventory import Inventory
from agent_worker.presence import NodePresence
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.contracts.activities import AgentReport, HealthChange, Presence
from moorage.domain.node import AgentInfo, ContainerSeen
from moorage.domain.session import KernelExit
from tests.agent.specs import a_spec
from tests.support.builders import an_agent


class ControlPlane:
    """Temporal as the agent sees it."""

    def __init__(self) -> None:
        self.service_client = self
        self.registered: asyncio.Queue[AgentInfo] = asyncio.Queue()
        self.reports: asyncio.Queue[AgentReport] = asyncio.Queue()
        self.exits: asyncio.Queue[KernelExit] = asyncio.Queue()
        self.health: list[HealthChange] = []
        self.refusals: list[RPCStatusCode] = []  # of the next words to a session
        self.reached = True

    async def check_health(self, *, timeout: timedelta) -> bool:
        if not self.reached:
            raise RPCError("unreachable", RPCStatusCode.UNAVAILABLE, b"")
        return True

    async def start_workflow(self, name: str, **options: Any) -> None:
        self.registered.put_nowait(options["start_signal_args"][0])

    def get_workflow_handle(self, workflow_id: str) -> ControlPlane:
        return self

    async def signal(
        self, name: str, message: AgentReport | KernelExit | HealthChange, *, rpc_timeout: timedelta
    ) -> None:
        if self.refusals:
            raise RPCError("refused", self.refusals.pop(0), b"")
        if isinstance(message, AgentReport):
            assert name == "report"
            self.reports.put_nowait(message)
        elif isinstance(message, HealthChange):
            assert name == "health_changed"
            self.health.append(message)
        else:
            assert name == "kernel_exited"
            self.exits.put_nowait(message)


class Node:
    def __init__(self, folder: Path, runtime: SimulatedRuntime) -> None:
        self.control = ControlPlane()
        self._happenings = folder / "now.json"
        self.inventory = Inventory({"simulated": Simulated(simulated_devices("cuda.device=2"), self._happenings)})
        self.presence = NodePresence(cast(Client, self.control), runtime, self._info, self.inventory)

    def _info(self, containers: list[ContainerSeen], images: list[str]) -> AgentInfo:
        return replace(an_agent(containers=containers, images=images), devices=self.inventory.devices)

    def happens(self, **faults: str) -> None:
        self._happenings.write_text(json.dumps({f"cuda.device-{n[1:]}": {"fault": one} for n, one in faults.items()}))


@pytest.fixture
async def node(tmp_path: Path, simulated_runtime: SimulatedRuntime) -> AsyncIterator[Node]:
    made = Node(tmp_path, simulated_runtime)
    yield made


def ill(said: AgentInfo | AgentReport) -> dict[str, str]:
    return {device.device_id: device.reason for device in said.devices if not device.healthy}


async def test_a_fault_that_stands_at_the_start_is_registered(node: Node) -> None:
    node.happens(n1="worn out")
    await node.inventory.take_stock()
    speaking = asyncio.create_task(node.presence.run(fence_s=1000))
    async with asyncio.timeout(5):
        assert ill(await node.control.registered.get()) == {"cuda.device-1": "worn out"}
    await _ended(speaking)


async def test_a_change_of_health_is_reported_before_the_next_report_is_due(node: Node) -> None:
    await node.inventory.take_stock()
    speaking = asyncio.create_task(node.presence.run(fence_s=1000))
    async with asyncio.timeout(5):
        assert ill(await node.control.registered.get()) == {}
        node.happens(n0="fell off the bus")
        await node.inventory.look()
        assert ill(await node.control.reports.get()) == {"cuda.device-0": "fell off the bus"}
        node.happens()
        await node.inventory.look()
        assert ill(await node.control.reports.get()) == {}
    await _ended(speaking)


async def test_what_the_node_stopped_cut_off_is_reported_as_that_and_told_as_no_end(
    node: Node, simulated_runtime: SimulatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_worker.presence._REPORT_S", 0.05)
    monkeypatch.setattr("agent_worker.presence._NO_CONTACT_S", 0.01)
    moves, ends = a_spec(on_node_loss="requeue"), a_spec(MOORAGE_SIM_RUN_S="0.5")
    await simulated_runtime.create(moves)
    node.control.reached = False
    speaking = asyncio.create_task(node.presence.run(fence_s=0.2))
    async with asyncio.timeout(10):
        while not any(one.fenced for one in (await node.control.reports.get()).containers):
            pass
        await simulated_runtime.create(ends)
        assert (await node.control.exits.get()).kernel_id == ends.kernel_id
        # What has ended is about to be removed: until then each report says it, though nothing changes.
        while len(seen := (await node.control.reports.get()).containers) < 2:
            pass
        again = (await node.control.reports.get()).containers
        assert {one.kernel_id: one.fenced for one in again} == {moves.kernel_id: True, ends.kernel_id: False}
    assert len(seen) == 2
    assert node.control.exits.empty()
    await _ended(speaking)


async def test_a_node_whose_presence_is_given_up_registers_at_once(node: Node) -> None:
    speaking = asyncio.create_task(node.presence.run(fence_s=1000))
    async with asyncio.timeout(5):
        registered = await node.control.registered.get()
        environment, beaten = ActivityEnvironment(), asyncio.Event()
        environment.on_heartbeat = lambda *_: beaten.set()
        presence = Presence(registered.agent_id, registered.incarnation)
        holding = asyncio.create_task(environment.run(node.presence.hold_presence, presence))
        await beaten.wait()
        environment.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        assert await node.control.registered.get() == registered
    await _ended(speaking)


async def test_health_is_told_until_it_is_heard_or_the_session_is_over(node: Node) -> None:
    change = HealthChange("k1", 0, "healthy", "ready after 0.1 s")
    async with asyncio.timeout(5):
        node.control.refusals = [RPCStatusCode.UNAVAILABLE]
        await node.presence.tell_health("s1", change)
        node.control.refusals = [RPCStatusCode.NOT_FOUND]
        await node.presence.tell_health("s1", change)
    assert node.control.health == [change]
    assert node.control.refusals == []


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
