"""How workflows are started: the same by the API, the workers, the scheduler and the reaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

from temporalio.client import Client
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import WorkflowAlreadyStartedError

from moorage.contracts import names
from moorage.contracts.activities import SchedulerInput, SessionInput
from moorage.contracts.shown import Shown
from moorage.domain.image_orders import ImageOrder

# A signal breaks the delay: a session that is placed at once then needs one workflow task less.
_FIRST_TASK_DELAY = timedelta(seconds=2)


def session_input(row: Mapping[str, Any]) -> SessionInput:
    """From a row with the session's columns, `user` (e-mail) and `project` (name)."""
    return SessionInput(
        session_id=str(row["id"]),
        name=row["name"],
        user=row["user"],
        project=row["project"],
        resource_group=row["resource_group"],
        image=row["image"],
        on_node_loss=row["on_node_loss"],
        pending_timeout_s=row["pending_timeout_s"],
        lifetime_s=row["lifetime_s"],
        batch_timeout_s=row["batch_timeout_s"],
        grace_s=row["grace_s"],
        restart_policy=row["restart_policy"],
        max_restarts=row["max_restarts"],
    )


async def start_session(
    client: Client,
    session: SessionInput,
    *,
    signal: tuple[str, Sequence[object]] | None = None,
    reuse: WorkflowIDReusePolicy = WorkflowIDReusePolicy.REJECT_DUPLICATE,
) -> bool:
    """The workflow runs, and was told the signal if one is given. False if it runs already or is over."""
    try:
        await client.start_workflow(
            "SessionWorkflow",
            session,
            id=names.session_workflow(session.session_id),
            task_queue=names.CONTROL_QUEUE,
            id_reuse_policy=reuse,
            start_delay=None if signal or session.recovered else _FIRST_TASK_DELAY,
            start_signal=signal[0] if signal else None,
            start_signal_args=list(signal[1]) if signal else [],
            static_summary=Shown(f"{session.name}: {session.image}"),
            search_attributes=TypedSearchAttributes(
                [
                    SearchAttributePair(names.STATUS, "PENDING"),
                    SearchAttributePair(names.USER, session.user),
                    SearchAttributePair(names.PROJECT, session.project),
                    SearchAttributePair(names.RESOURCE_GROUP, session.resource_group),
                ]
            ),
        )
    except WorkflowAlreadyStartedError:
        return False
    return True


async def start_scheduler(client: Client, group: str, policy: str) -> None:
    """The resource group has its scheduler. Idempotent: one that runs already goes on."""
    await client.start_workflow(
        "SchedulerWorkflow",
        SchedulerInput(group, policy),
        id=names.scheduler_workflow(group),
        task_queue=names.CONTROL_QUEUE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=Shown(f"scheduler of resource group {group}"),
        search_attributes=TypedSearchAttributes([SearchAttributePair(names.RESOURCE_GROUP, group)]),
    )


async def start_image_order(client: Client, order: ImageOrder) -> None:
    """The order's workflow runs, or has run. Idempotent."""
    with suppress(WorkflowAlreadyStartedError):
        await client.start_workflow(
            "ImageWorkflow",
            order,
            id=names.image_workflow(order.order_id),
            task_queue=names.CONTROL_QUEUE,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            static_summary=Shown(f"{order.kind} an image on {len(order.agents)} nodes"),
        )
