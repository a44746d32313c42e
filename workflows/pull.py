"""Pulls as steps of a workflow."""

from __future__ import annotations

from temporalio import workflow

from moorage.contracts import names
from moorage.contracts.activities import KernelActivities, Pulled, PullImage, SessionActivities
from moorage.contracts.shown import Shown
from workflows import options


async def order_for(image: str) -> PullImage:
    """With the credentials that its registry has now."""
    return await workflow.execute_local_activity_method(
        SessionActivities.pull_order,
        image,
        start_to_close_timeout=options.DATABASE_TIMEOUT,
        retry_policy=options.DATABASE_RETRY,
        summary=Shown("credentials of its registry"),
    )


async def pull_on(agent_id: str, order: PullImage) -> Pulled | None:
    """What the node has now. A pull that nobody waits for any more goes on."""
    return await workflow.execute_activity_method(
        KernelActivities.pull_image,
        order,
        task_queue=names.agent_queue(agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=options.PULL_TIMEOUT,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=options.PULL_RETRY,
        cancellation_type=workflow.ActivityCancellationType.ABANDON,
        summary=Shown(f"pull {order.image} on {agent_id}"),
    )
