"""The agent's code in this process, on a node of its own, against the Docker SDK. The sides take turns."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from temporalio.testing import ActivityEnvironment

from agent_worker.activities import NodeKernels
from agent_worker.kept_logs import KeptLogs
from agent_worker.runtimes.container import environment, hardening
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.limits import limits
from moorage.cli.bench.node_left import labels_of, remove_labelled
from moorage.cli.bench.own_cluster import percentile
from moorage.contracts.activities import Destroy
from moorage.domain.errors import MoorageError
from moorage.domain.session import KernelSpec

_CLUSTER = "bench"
_LABEL = "moorage.bench"
_AT_ONCE = (1, 4, 8)
_NAMESPACES = 2  # as a node's settings are
_SETTLE_S = 0.8  # neither side pays for what the other left to do
_IDLE = ["tail", "-f", "/dev/null"]
_STEP = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"
# The first one is what a neighbour may well do. Each as greedy as it gets within a half core, 64 MiB and 128 processes.
_HOGS = {
    "busy loop": "while true; do :; done",
    "fork bomb": "bomb() { bomb | bomb & }; bomb; sleep 600",
    "memory hog": "while true; do dd if=/dev/zero of=/dev/null bs=256M count=1; done",
    "disk filler": "while true; do dd if=/dev/zero of=/tmp/x bs=1M count=256; done",
}
_NEIGHBOUR_S = 6.0


async def measure(n: int, seconds: int, image: str) -> dict[str, Any]:
    """Nothing is left of it, whatever interrupts."""
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
        node = _Node(Path(folder), image)
        tending = asyncio.create_task(node.runtime.tend())
        try:
            return {
                "creates": {str(at_once): await _creates(node, n, at_once) for at_once in _AT_ONCE if at_once <= n},
                "stop": await _stops(node, n),
                "neighbour": await _neighbour(node, min(seconds, _NEIGHBOUR_S)),
            }
        finally:
            tending.cancel()
            await node.close()


class _Node:
    def __init__(self, folder: Path, image: str) -> None:
        self.agent_id = f"bench-{uuid.uuid4().hex[:8]}"
        self.runtime = DockerRuntime(self.agent_id, cluster=_CLUSTER, namespaces=_NAMESPACES)
        self._kernels = NodeKernels(self.runtime, KeptLogs(folder / "logs", cap_bytes=1_000_000))
        self._image = image
        self._docker = _client()
        self._threads = ThreadPoolExecutor(max(_AT_ONCE))

    async def close(self) -> None:
        """What an interrupted round has left goes too."""
        await self.runtime.close()
        self._threads.shutdown(cancel_futures=True)
        remove_labelled(f"{_LABEL}={self.agent_id}", *labels_of(_CLUSTER, self.agent_id))
        self._docker.close()

    def spec(self, *command: str, pids: int = 128) -> KernelSpec:
        return KernelSpec(
            session_id=str(uuid.uuid4()),
            kernel_id=str(uuid.uuid4()),
            attempt=0,
            agent_id=self.agent_id,
            image=self._image,
            command=list(command) or _IDLE,
            env={},
            slots={"cpu": 500, "mem": 64 * 1024**2},
            pids_limit=pids,
        )

    async def create(self, spec: KernelSpec) -> str:
        created = await ActivityEnvironment().run(self._kernels.create_kernel, spec)
        return created.container_id

    async def destroy(self, spec: KernelSpec) -> None:
        order = Destroy(spec.session_id, spec.kernel_id, spec.attempt, grace_s=0)
        destroyed = await ActivityEnvironment().run(self._kernels.destroy_kernel, order)
        if not destroyed.existed:
            raise MoorageError(f"the container of kernel {spec.kernel_id} was not there to be destroyed")

    async def bare_create(self, spec: KernelSpec) -> str:
        """By the SDK: the same limits and hardening, on Docker's bridge as with `docker run`."""
        return str(await self._in_thread(partial(self._bare_create, spec)))

    def _bare_create(self, spec: KernelSpec) -> str:
        host = self._docker.create_host_config(
            **limits(spec),
            **hardening(),
            network_mode="bridge",
            log_config={"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
        )
        made = self._docker.create_container(
            spec.image,
            command=spec.command,
            environment=environment(spec),
            labels={_LABEL: self.agent_id},
            host_config=host,
        )
        self._docker.start(made["Id"])
        return str(made["Id"])

    async def bare_destroy(self, container_id: str) -> None:
        def destroy() -> None:
            self._docker.kill(container_id)
            self._docker.wait(container_id)
            self._docker.remove_container(container_id, v=True)

        await self._in_thread(destroy)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


async def _creates(node: _Node, n: int, at_once: int) -> dict[str, float]:
    """Rounds of so many at once; removing them is not counted."""
    ours, floor = [], []
    for count in range(-1, n // at_once):
        specs = [node.spec() for _ in range(at_once)]
        took = await _took(node.create(spec) for spec in specs)
        await asyncio.gather(*(node.destroy(spec) for spec in specs))
        await asyncio.sleep(_SETTLE_S)
        made: list[str] = []

        async def bare(spec: KernelSpec, made: list[str] = made) -> None:
            made.append(await node.bare_create(spec))

        bare_took = await _took(bare(spec) for spec in specs)
        await asyncio.gather(*(node.bare_destroy(one) for one in made))
        await asyncio.sleep(_SETTLE_S)
        if count >= 0:  # the first one fills caches on both sides
            ours.append(took)
            floor.append(bare_took)
    return {
        "per_s": round(at_once / statistics.median(ours), 2),
        "floor_per_s": round(at_once / statistics.median(floor), 2),
        "ratio": round(statistics.median(floor) / statistics.median(ours), 3),
    }


async def _stops(node: _Node, n: int) -> dict[str, float]:
    """The order to destroy without grace until proven gone, against the SDK's kill, wait and remove."""
    ours, floor = [], []
    for count in range(-1, n):
        spec = node.spec()
        await node.create(spec)
        made = await node.bare_create(spec)
        await asyncio.sleep(_SETTLE_S)
        took = await _took([node.destroy(spec)])
        await asyncio.sleep(_SETTLE_S)
        bare_took = await _took([node.bare_destroy(made)])
        if count >= 0:
            ours.append(took * 1000)
            floor.append(bare_took * 1000)
    return {
        "p50_ms": percentile(ours, 50),
        "floor_p50_ms": percentile(floor, 50),
        "ratio": round(statistics.median(ours) / statistics.median(floor), 3),
        "overhead_p50_ms": round(statistics.median(a - b for a, b in zip(ours, floor, strict=True)), 1),
    }


async def _neighbour(node: _Node, seconds: float) -> dict[str, Any]:
    """How long a fixed piece of work takes in a container: alone, and beside each hog."""
    say = "read before rest < /proc/uptime; " + _STEP + "; read after rest < /proc/uptime; echo $before $after"
    spec = node.spec("sh", "-c", f"while true; do {say}; sleep 0.02; done")
    await node.create(spec)
    alone = await _steps(node, spec, seconds)
    found: dict[str, Any] = {"alone_p50_ms": percentile(alone, 50), "alone_p95_ms": percentile(alone, 95)}
    for name, command in _HOGS.items():
        hog = node.spec("sh", "-c", command)
        await node.create(hog)
        beside = await _steps(node, spec, seconds)
        await node.destroy(hog)
        found[name] = {
            "p50_ms": percentile(beside, 50),
            "p95_ms": percentile(beside, 95),
            "ratio": round(statistics.mean(beside) / statistics.mean(alone), 3),
        }
    await node.destroy(spec)
    return found


async def _steps(node: _Node, spec: KernelSpec, seconds: float) -> list[float]:
    """Milliseconds of each piece of work during the next seconds; the kernel's clock counts hundredths."""
    seen = next(one for one in await node.runtime.containers() if one.kernel_id == spec.kernel_id)
    began = time.clock_gettime(time.CLOCK_BOOTTIME)
    await asyncio.sleep(seconds)
    log = b"".join([chunk async for chunk in node.runtime.logs(seen, follow=False)])
    pairs = [line.split() for line in log.decode().splitlines()]
    steps = [(float(after) - float(before)) * 1000 for before, after in pairs if float(before) >= began]
    if not steps:
        raise MoorageError("the neighbour did no work at all")
    return steps


async def _took(steps: Any) -> float:
    """Seconds until all of them are done."""
    began = time.perf_counter()
    await asyncio.gather(*steps)
    return time.perf_counter() - began


def _client() -> Any:
    import docker

    return docker.APIClient(version="auto")
