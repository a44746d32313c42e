"""The steps of a session's life as its workflow asks for them: each with its queue, its deadlines and its retries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from moorage.contracts import names
from moorage.contracts.activities import (
    CommitKernel,
    CommittedImage,
    CreatedKernel,
    Destroy,
    Destroyed,
    KernelActivities,
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
    return await workflow.execute_activity_method(
        KernelActivities.create_kernel,
        kernel,
        task_queue=names.agent_queue(kernel.agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=options.CREATE_TIMEOUT,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=options.CREATE_RETRY,
        cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
        summary=Shown(f"create the container on {kernel.agent_id}"),
    )


def start_destroy(kernel: KernelSpec, grace_s: float) -> workflow.ActivityHandle[Destroyed]:
    return workflow.start_activity_method(
        KernelActivities.destroy_kernel,
        Destroy(kernel.session_id, kernel.kernel_id, kernel.attempt, grace_s),
        task_queue=names.agent_queue(kernel.agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=timedelta(seconds=grace_s) + options.DESTROY_MARGIN,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=options.DESTROY_RETRY,
        cancellation_type=workflow.ActivityCancellationType.ABANDON,
        summary=Shown(f"remove the container on {kernel.agent_id}"),
    )


def start_update(kernel: KernelSpec, slots: dict[str, int]) -> workflow.ActivityHandle[None]:
    return workflow.start_activity_method(
        KernelActivities.update_kernel,
        UpdateKernel(kernel.session_id, kernel.kernel_id, kernel.attempt, slots),
        task_queue=names.agent_queue(kernel.agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=options.UPDATE_TIMEOUT,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=options.UPDATE_RETRY,
        cancellation_type=workflow.ActivityCancellationType.ABANDON,
        summary=Shown(f"change the limits on {kernel.agent_id}"),
    )


def start_commit(kernel: KernelSpec, image: str) -> workflow.ActivityHandle[CommittedImage]:
    return workflow.start_activity_method(
        KernelActivities.commit_kernel,
        CommitKernel(kernel.session_id, kernel.kernel_id, kernel.attempt, image),
        task_queue=names.agent_queue(kernel.agent_id),
        schedule_to_start_timeout=options.NODE_PICKUP,
        start_to_close_timeout=options.COMMIT_TIMEOUT,
        heartbeat_timeout=options.NODE_HEARTBEAT,
        retry_policy=options.UPDATE_RETRY,
        cancellation_type=workflow.ActivityCancellationType.ABANDON,
        summary=Shown(f"make an image of the container on {kernel.agent_id}"),
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
