"""Orders about images to several nodes at once: each is one durable workflow, with a result for each node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from temporalio import activity

from moorage.domain.image_orders import NodeResult

# Types of ApplicationError that a workflow tells apart.
IMAGE_IN_USE = "image-in-use"  # a container on the node has it


@dataclass(frozen=True, slots=True)
class RemoveImage:
    image: str


class NodeImageActivities(ABC):
    """On the node's own queue: images."""

    @activity.defn
    @abstractmethod
    async def remove_image(self, order: RemoveImage) -> bool:
        """The node has no image of this name. Key: the name. False if it had none before.

        Fails for good with IMAGE_IN_USE and the words who uses it.
        """


class ImageActivities(ABC):
    """On the control queue, as local activities: the rows of an order."""

    @activity.defn
    @abstractmethod
    async def record_result(self, result: NodeResult) -> None:
        """The node's row has its result, once. Key: order and agent."""

    @activity.defn
    @abstractmethod
    async def end_order(self, order_id: str) -> None:
        """The order is over, once; nodes without a result have failed."""
