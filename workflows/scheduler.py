"""A resource group's scheduler: one long-running activity, alive on some control worker at all times."""

from __future__ import annotations

from temporalio import workflow

from moorage.contracts import names
from moorage.contracts.activities import MaintenanceActivities, SchedulerInput
from moorage.contracts.shown import Shown
from workflows import options


@workflow.defn(name="SchedulerWorkflow")
class SchedulerWorkflow:
    @workflow.run
    async def run(self, scheduler: SchedulerInput) -> None:
        """The activity returns when the group's policy was changed, with the new one's name; "" if it was removed."""
        workflow.set_current_details(f"policy **{scheduler.policy}** for resource group {scheduler.resource_group}")
        policy: str = await workflow.execute_activity(
            f"schedule.{scheduler.policy}",
            scheduler,
            result_type=str,
            start_to_close_timeout=options.SCHEDULER_TIMEOUT,
            heartbeat_timeout=options.SCHEDULER_HEARTBEAT,
            retry_policy=options.SCHEDULER_RETRY,
            summary=Shown(f"passes of {scheduler.resource_group} by {scheduler.policy}"),
        )
        if policy:
            workflow.continue_as_new(SchedulerInput(scheduler.resource_group, policy))


@workflow.defn(name="ReaperWorkflow")
class ReaperWorkflow:
    @workflow.run
    async def run(self) -> int:
        """One look for sessions without a workflow."""
        return await workflow.execute_activity_method(
            MaintenanceActivities.reap,
            task_queue=names.CONTROL_QUEUE,
            start_to_close_timeout=options.MESSAGES_TIMEOUT,
            retry_policy=options.PULL_RETRY,
            summary=Shown("start the workflows that are missing"),
        )
