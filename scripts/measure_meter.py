"""What measuring costs a node: processor time of a round, and memory. A JSON object on the last line.

Of control groups as files in a folder, both versions; with --docker of real containers that only wait.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import docker

from agent_worker.metrics.gauges import Gauges
from agent_worker.metrics.meter import Meter
from agent_worker.metrics.reading import Readings
from agent_worker.metrics.track import BYTES, SAMPLES
from agent_worker.runtimes.namespaces import IMAGE, Namespaces
from agent_worker.runtimes.simulated import SimulatedRuntime
from moorage.domain.node import ContainerSeen

_PERIOD_S = 5.0


class Files(SimulatedRuntime):
    """Containers that are only files."""

    def __init__(self, folder: Path, gauges: Gauges, ids: Sequence[str]) -> None:
        super().__init__(folder / "none.json")
        self._gauges = gauges
        self._ids = ids

    async def containers(self) -> list[ContainerSeen]:
        return [ContainerSeen(f"s{n}", f"k{n}", 0, name, "running") for n, name in enumerate(self._ids)]

    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        return await asyncio.to_thread(self._gauges.read, [one.container_id for one in containers])


def version_1(root: Path, ids: Sequence[str]) -> Gauges:
    return _tree(root, ids, version=1)


def version_2(root: Path, ids: Sequence[str]) -> Gauges:
    return _tree(root, ids, version=2)


def _tree(root: Path, ids: Sequence[str], *, version: int) -> Gauges:
    """Recorded files of one container, N times; the node's own are the real ones."""
    from tests.agent import trees

    pids = {name: n for n, name in enumerate(ids, 100_000)}
    for name, pid in pids.items():
        (trees.v1_tree if version == 1 else trees.v2_tree)(root, name=name, pid=pid)
    return Gauges(pids.get, root=str(root))


async def measured(folder: Path, gauges: Gauges, ids: Sequence[str], rounds: int) -> dict[str, Any]:
    """Rounds without a pause between them, each with every container."""
    now = [0.0]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    meter = Meter(Files(folder, gauges, ids), clock=lambda: now[0])
    for _ in range(SAMPLES + 20):  # past the rounds of new containers, until each ring is full
        await meter.look()
        now[0] += _PERIOD_S
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        await meter.look()
        now[0] += _PERIOD_S
    cpu_ms = (time.process_time() - began_cpu) / rounds * 1000
    return {
        "containers": len(ids),
        "cpu_ms_per_round": round(cpu_ms, 2),
        "percent_of_a_core": round(cpu_ms / _PERIOD_S / 10, 3),
        "wall_ms_per_round": round((time.perf_counter() - began) / rounds * 1000, 2),
        "ring_bytes_per_container": BYTES,
        "bytes_per_container": round(held / len(ids)),
    }


async def of_files(count: int, rounds: int, make: Callable[[Path, Sequence[str]], Gauges]) -> dict[str, Any]:
    ids = [f"{n:064x}" for n in range(count)]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        return await measured(Path(folder), make(Path(folder), ids), ids, rounds)


async def of_docker(count: int, rounds: int) -> dict[str, Any]:
    client = docker.APIClient(version="auto")

    async def call(blocking: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(blocking)

    made = Namespaces(client, "measure/meter", size=count, call=call)
    try:
        await made.upkeep()
        ids = [one["Id"] for one in client.containers(filters={"ancestor": IMAGE, "label": _LABEL})]
        gauges = Gauges(lambda name: int(client.inspect_container(name)["State"]["Pid"]))
        with tempfile.TemporaryDirectory() as folder:
            return await measured(Path(folder), gauges, ids, rounds)
    finally:
        await made.close()
        client.close()


_LABEL = "moorage.namespace=measure/meter"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--containers", type=int, default=100)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--docker", action="store_true")
    asked = options.parse_args()
    if asked.docker:
        found = {"docker": asyncio.run(of_docker(asked.containers, asked.rounds))}
    else:
        found = {
            make.__name__: asyncio.run(of_files(asked.containers, asked.rounds, make))
            for make in (version_1, version_2)
        }
    found["process"] = {"max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
