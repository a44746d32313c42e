"""One image on many nodes: pulled ahead of its sessions, or removed; each node by itself, with its own result."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, TimeoutError, is_cancelled_exception

from moorage.contracts import names
from moorage.contracts.activities import Pulled, PullMode
from moorage.contracts.images import ImageActivities, NodeImageActivities, RemoveImage
from moorage.contracts.shown import Shown
from moorage.domain.image_orders import ImageOrder, NodeResult, NodeState, OrderKind
from workflows import options, steps

# A registry is asked by so many nodes at a time; the others follow as these end.
_AT_ONCE = 20


@workflow.defn(name="ImageWorkflow")
class ImageWorkflow:
    @workflow.run
    async def run(self, order: ImageOrder) -> None:
        """Each node has a result: what it has now, or why not. One that does not answer fails alone."""
        workflow.set_current_details(f"{order.kind} on {len(order.agents)} nodes")
        turns = asyncio.Semaphore(_AT_ONCE)

        async def in_turn(agent_id: str) -> None:
            async with turns:
                await self._record(await self._result(order, agent_id))

        await asyncio.gather(*(in_turn(agent_id) for agent_id in order.agents))
        await workflow.execute_local_activity_method(
            ImageActivities.end_order,
            order.order_id,
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown("the order is over"),
        )

    async def _result(self, order: ImageOrder, agent_id: str) -> NodeResult:
        try:
            if order.kind == OrderKind.REMOVE:
                was_there = await self._remove(order.image, agent_id)
                message = "removed" if was_there else "it was not there"
                return NodeResult(order.order_id, agent_id, NodeState.DONE, message)
            pulled = await self._pull(order.image, agent_id) or Pulled("")
            return NodeResult(order.order_id, agent_id, NodeState.DONE, "", pulled.image_id, pulled.digest)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            return NodeResult(order.order_id, agent_id, NodeState.FAILED, _words(error))

    async def _pull(self, image: str, agent_id: str) -> Pulled | None:
        order = await steps.pull_order(image)
        return await steps.pull(agent_id, replace(order, mode=PullMode.ALWAYS))

    async def _remove(self, image: str, agent_id: str) -> bool:
        return await workflow.execute_activity_method(
            NodeImageActivities.remove_image,
            RemoveImage(image),
            task_queue=names.agent_queue(agent_id),
            schedule_to_start_timeout=options.NODE_PICKUP,
            start_to_close_timeout=options.REMOVE_IMAGE_TIMEOUT,
            retry_policy=options.PULL_RETRY,
            summary=Shown(f"remove on {agent_id}"),
        )

    async def _record(self, result: NodeResult) -> None:
        await workflow.execute_local_activity_method(
            ImageActivities.record_result,
            result,
            start_to_close_timeout=options.DATABASE_TIMEOUT,
            retry_policy=options.DATABASE_RETRY,
            summary=Shown(f"{result.agent_id}: {result.state}"),
        )


def _words(error: ActivityError) -> str:
    """The node's, or that it said none."""
    if isinstance(error.cause, TimeoutError):
        return "the node did not answer"
    return str(getattr(error.cause, "message", "") or error.cause)
