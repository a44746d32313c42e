"""Signed requests that count once: which of them came already, over all replicas of the API."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.signing import WINDOW_S

# A request may be dated ahead by the window and come again until the window after that; the rest is for clocks.
_KEPT_S = 2 * WINDOW_S + 600


async def take(engine: AsyncEngine, access_key: str, nonce: str) -> bool:
    """Whether this key shows the nonce for the first time. Of several at once, one is told so."""
    async with engine.begin() as connection:
        taken = await connection.execute(
            text("INSERT INTO nonces (access_key, nonce) VALUES (:key, :nonce) ON CONFLICT DO NOTHING RETURNING 1"),
            {"key": access_key, "nonce": nonce},
        )
        return taken.first() is not None


async def forget_old(engine: AsyncEngine) -> int:
    """Removes those whose requests are refused for their date by now."""
    async with engine.begin() as connection:
        gone = await connection.execute(
            text("DELETE FROM nonces WHERE seen_at < now() - make_interval(secs => :kept)"), {"kept": _KEPT_S}
        )
        return gone.rowcount
