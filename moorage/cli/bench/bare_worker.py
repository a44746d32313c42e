"""A worker of the bare workflow that does nothing else, in a process of its own. Says on stdout that it works."""

from __future__ import annotations

import asyncio
import sys

from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from moorage.cli.bench.bare_workflow import QUEUE, BareWorkflow, step


async def work(address: str) -> None:
    """Until it is killed. No module is reloaded for a run, so the sandbox costs the floor as little as it can."""
    worker = Worker(
        await Client.connect(address),
        task_queue=QUEUE,
        workflows=[BareWorkflow],
        activities=[step],
        workflow_runner=SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_all_modules()
        ),
        max_cached_workflows=2000,
    )
    async with worker:
        print("working", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]))
