"""Who looks again when something that decides over all resource groups has changed."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db.ledger import SCHEDULER_CHANNEL


async def wake_schedulers(connection: AsyncConnection) -> None:
    """Every scheduler makes a pass when this transaction commits."""
    await connection.execute(
        text("SELECT pg_notify(:channel, name) FROM resource_groups WHERE removed_at IS NULL"),
        {"channel": SCHEDULER_CHANNEL},
    )
