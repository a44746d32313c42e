"""The agent as a whole, before anybody answers it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from agent_worker.main import run
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.settings import Settings
from tests.agent.specs import a_spec


async def test_an_agent_that_starts_cut_off_stops_what_may_have_started_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "simulated-containers.json"
    before = SimulatedRuntime(file)
    moves, stays = a_spec(on_node_loss="requeue"), a_spec()
    for spec in (moves, stays):
        await before.create(spec)
    settings = Settings(
        agent_id="n1",
        agent_runtime="simulated",
        agent_data_dir=tmp_path,
        agent_fence_s=0.2,
        dataplane_key="k" * 32,
        payload_keys="k1:" + "11" * 32,
        temporal_address="127.0.0.1:1",  # nothing listens there
    )
    running = asyncio.create_task(run(settings))
    async with asyncio.timeout(20):
        while len(ended := await _ended(file)) == 0:
            await asyncio.sleep(0.05)
    assert ended == [moves.kernel_id]
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await running
    assert await _ended(file) == [moves.kernel_id]


async def _ended(file: Path) -> list[str]:
    """As the next process of the agent finds it."""
    found = await SimulatedRuntime(file).containers()
    return [one.kernel_id for one in found if one.state == "exited"]
