"""The rows of an order about images, as local activities of its workflow."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.contracts.images import ImageActivities
from moorage.db import image_orders
from moorage.domain.image_orders import NodeResult


class LedgerImages(ImageActivities):
    """Implements the promises of ImageActivities on PostgreSQL."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def record_result(self, result: NodeResult) -> None:
        await image_orders.record(self._engine, result)

    async def end_order(self, order_id: str) -> None:
        await image_orders.end(self._engine, order_id)
