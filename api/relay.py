"""Passing frames between a client's WebSocket and a node's, each direction at the pace of whoever takes them."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

_BROKEN = 1011


async def relay(client: WebSocket, node: ClientConnection) -> None:
    """Until either side ends. What the node said last reaches the client before the end does."""
    await client.accept()
    ways = {asyncio.create_task(_there(client, node)), asyncio.create_task(_back(client, node))}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
    if WebSocketState.DISCONNECTED not in (client.client_state, client.application_state):
        with suppress(WebSocketDisconnect, RuntimeError):
            await client.close(node.close_code or _BROKEN)


async def _there(client: WebSocket, node: ClientConnection) -> None:
    try:
        while (message := await client.receive())["type"] == "websocket.receive":
            data = message.get("bytes")
            await node.send(message["text"] if data is None else data)
    except ConnectionClosed:  # what it has sent is still passed on
        await asyncio.Event().wait()


async def _back(client: WebSocket, node: ClientConnection) -> None:
    with suppress(WebSocketDisconnect, ConnectionClosed):
        async for frame in node:
            await (client.send_text(frame) if isinstance(frame, str) else client.send_bytes(frame))
