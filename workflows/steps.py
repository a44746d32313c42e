"""The steps of a session's life as its workflow asks for them: each with its queue, its deadlines and its retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from moorage.contracts import names
from moorage.contracts.activities import (
    CommitKernel,
    CommittedImage,
    CreatedKernel,
    Destroy,
    Destroyed,
    KernelActivities,
    Pulled,
    PullImage,
    SessionActivities,
    UpdateKernel,
)
from moorage.contracts.shown import Shown
from moorage.domain.session import KernelSpec
from workflows import options

_Order = TypeVar("_Order")
_Result = TypeVar("_Result")


async def local(step: Callable[[Any, _Order], Awaitable[_Result]], order: _Order, summary: str) -> _Result:
    """A step on the session's rows: milliseconds, and repeated until it is done."""
    return await workflow.execute_local_activity_method(
        step,
        order,
        start_to_close_timeout=options.DATABASE_TIMEOUT,
        retry_policy=options.DATABASE_RETRY,
        summary=Shown(summary),
    )


async def create(kernel: KernelSpec) -> CreatedKernel:
    return await _on_node(
        KernelActivities.create_kernel,
        kernel,
        kernel.agent_id,
        within=options.CREATE_TIMEOUT,
        retry=options.CREATE_RETRY,
        summary=f"create the container on {kernel.agent_id}",
        cancelled=workflow.ActivityCancellationType.TRY_CANCEL,
    )


async def pull_order(image: str) -> PullImage:
    """With the credentials that its registry has now."""
    return await local(SessionActivities.pull_order, image, "credentials of its registry")


async def pull(agent_id: str, order: PullImage) -> Pulled | None:
    """What the node has now. A pull that nobody waits for any more goes on."""
    return await _on_node(
        KernelActivities.pull_image,
        order,
        agent_id,
        within=options.PULL_TIMEOUT,
        retry=options.PULL_RETRY,
        summary=f"pull {order.image} on {agent_id}",
    )


def start_destroy(kernel: KernelSpec, grace_s: float) -> workflow.ActivityHandle[Destroyed]:
    return _on_node(
        KernelActivities.destroy_kernel,
        Destroy(kernel.session_id, kernel.kernel_id, kernel.attempt, grace_s),
        kernel.agent_id,
        within=timedelta(seconds=grace_s) + options.DESTROY_MARGIN,
        retry=options.DESTROY_RETRY,
        summary=f"remove the container on {kernel.agent_id}",
    )


def start_update(kernel: KernelSpec, slots: dict[str, int]) -> workflow.ActivityHandle[None]:
    return _on_node(
        KernelActivities.update_kernel,
        UpdateKernel(kernel.session_id, kernel.kernel_id, kernel.attempt, slots),
        kernel.agent_id,
        within=options.UPDATE_TIMEOUT,
        retry=options.UPDATE_RETRY,
        summary=f"change the limits on {kernel.agent_id}",
    )


def start_commit(kernel: KernelSpec, image: str) -> workflow.ActivityHandle[CommittedImage]:
    return _on_node(
        KernelActivities.commit_kernel,
        CommitKernel(kernel.session_id, kernel.kernel_id, kernel.attempt, image),
        kernel.agent_id,
        within=options.COMMIT_TIMEOUT,
        retry=options.UPDATE_RETRY,
        summary=f"make an image of the container on {kernel.agent_id}",
    )


def _on_node(
    step: Callable[[Any, _Order], Awaitable[_Result]],
    order: _Order,
    agent_id: str,
    *,
    within: timedelta,
    retry: RetryPolicy,
    summary: str,
    cancelled: workflow.ActivityCancellationType = workflow.ActivityCancellationType.ABANDON,
) -> workflow.ActivityHandle[_Result]:
    """On the node's own queue, where a live agent takes it at once and beats while it works."""
    return workflow.start_activity_method(
        step,
        order,
        task_queue=names.agent_queue(agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=within,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=retry,
        cancellation_type=cancelled,
        summary=Shown(summary),
    )


def drop(*work: asyncio.Future[Any]) -> None:
    """Cancelled, and nobody waits for how it ends: destroying the kernels finds whatever it did."""
    for one in work:
        one.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        one.cancel()


def type_of(error: ActivityError) -> str:
    """What the activity called its failure; empty for a timeout."""
    return error.cause.type or "" if isinstance(error.cause, ApplicationError) else ""


def words_of(error: ActivityError) -> str:
    return getattr(error.cause, "message", "") or str(error.cause)
