"""An agent's process that gets one order and is gone, as by kill -9, before or after a step of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import docker
from temporalio.testing import ActivityEnvironment

from agent_worker.activities import NodeKernels
from agent_worker.kept_logs import KeptLogs
from agent_worker.proofs import Proofs
from agent_worker.runtimes import docker as runtime
from agent_worker.runtimes.docker import DockerRuntime
from moorage.contracts.activities import Destroy
from moorage.domain.session import KernelSpec

KILLED = 9
# Its children are forked from one process that has imported everything: 30 ms each.
_PROCESSES = get_context("forkserver")
_PROCESSES.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Death:
    """`step` is a method of Docker's client, or a function of ours that asks Docker; the process is gone `when` it was
    about to be called, or had answered."""

    step: str
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.step}"


def kernels_of(node: DockerRuntime, folder: Path) -> NodeKernels:
    """As the agent makes them at its start, on what an earlier process of it has left."""
    return NodeKernels(node, KeptLogs(folder / "logs", cap_bytes=10_000), proofs=Proofs(folder / "proofs"))


def dies_on(order: KernelSpec | Destroy, death: Death, *, agent_id: str, folder: Path) -> bool:
    """True if it died where it should; False if it lived to the end of the order."""
    process = _PROCESSES.Process(target=_live, args=(order, death, agent_id, folder))
    process.start()
    process.join(60)
    assert process.exitcode in (0, KILLED), f"the agent ended with {process.exitcode}"
    return process.exitcode == KILLED


def _live(order: KernelSpec | Destroy, death: Death, agent_id: str, folder: Path) -> None:
    owner = docker.APIClient if hasattr(docker.APIClient, death.step) else runtime
    setattr(owner, death.step, _deadly(getattr(owner, death.step), death.when))
    asyncio.run(_obey(order, agent_id, folder))
    os._exit(0)


async def _obey(order: KernelSpec | Destroy, agent_id: str, folder: Path) -> None:
    kernels = kernels_of(DockerRuntime(agent_id), folder)
    if isinstance(order, Destroy):
        await ActivityEnvironment().run(kernels.destroy_kernel, order)
    else:
        await ActivityEnvironment().run(kernels.create_kernel, order)


def _deadly(method: Callable[..., Any], when: str) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            method(*arguments, **options)
        os._exit(KILLED)

    return call
