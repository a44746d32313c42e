"""Ports of sessions: one TCP connection over one WebSocket."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, WebSocket

from api.deps import Who, With
from api.nodes import running_node
from api.relay import relay
from moorage.db import sessions

router = APIRouter(prefix="/session", tags=["sessions"])


@router.websocket("/{ref}/ports/{port}")
async def port(
    websocket: WebSocket,
    ref: str,
    port: Annotated[int, Path(ge=1, le=65535)],
    who: Who,
    parts: With,
    kernel: str = "main1",
) -> None:
    """Binary frames are bytes, both ways; docs/api.md describes the others. Only ports of the container itself."""
    row = await sessions.find(parts.engine, who, ref, "session:connect")
    node = await running_node(parts, row, kernel, "a port")
    told = {"port": port, "kernel": kernel}
    await sessions.record_asked(parts.engine, who, "session:connect", str(row["id"]), after=told)
    async with node.websocket("ports", f"port:{port}", suffix=f"/{port}") as connection:
        await relay(websocket, connection)
