"""The floor of a session's life: a workflow with one signal and two activities."""

from __future__ import annotations

from datetime import timedelta

from temporalio import activity, workflow

QUEUE = "bench-bare"


@activity.defn
async def step(name: str) -> str:
    return name


@workflow.defn(name="BareWorkflow")
class BareWorkflow:
    def __init__(self) -> None:
        self._told = False

    @workflow.signal
    def tell(self, word: str) -> None:
        self._told = True

    @workflow.run
    async def run(self, name: str) -> str:
        await workflow.wait_condition(lambda: self._told)
        for _ in range(2):
            await workflow.execute_activity(step, name, start_to_close_timeout=timedelta(seconds=60))
        return name
