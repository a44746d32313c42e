"""Commands in sessions: one that is waited for over REST, and one with its input and outputs over a WebSocket."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, WebSocket
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.nodes import running_node
from api.relay import relay
from api.schemas import Exec
from moorage.db import sessions

router = APIRouter(prefix="/session", tags=["sessions"])
_Characters = Annotated[int, Query(ge=1, le=1000)]


@router.post("/{ref}/exec", summary="Run a command in a running session")
async def execute(ref: str, order: Exec, who: Who, parts: With, kernel: str = "main1") -> Response:
    """Answers when it has ended: exit_code, stdout and stderr (1 MiB each at most)."""
    row = await sessions.find(parts.engine, who, ref, "session:execute")
    node = await running_node(parts, row, kernel, "exec")
    told = _told(order.command, kernel)
    await sessions.record_asked(parts.engine, who, "session:execute", str(row["id"]), after=told)
    body = {"command": order.command, "timeout_s": order.timeout_s}
    answer = await node.ask("POST", "exec", "exec", body=body, timeout_s=order.timeout_s + 10)
    return JSONResponse(answer.json())


@router.websocket("/{ref}/terminal")
async def terminal(
    websocket: WebSocket,
    ref: str,
    who: Who,
    parts: With,
    command: Annotated[list[str], Query(min_length=1, max_length=1024)],
    tty: bool = False,
    rows: _Characters = 24,
    cols: _Characters = 80,
    term: Annotated[str, Query(pattern=r"^[A-Za-z0-9._+-]{1,64}$")] = "xterm",
    kernel: str = "main1",
) -> None:
    """The frames are described in docs/api.md."""
    row = await sessions.find(parts.engine, who, ref, "session:execute")
    node = await running_node(parts, row, kernel, "exec")
    told = _told(command, kernel) | {"terminal": tty}
    await sessions.record_asked(parts.engine, who, "session:execute", str(row["id"]), after=told)
    params = [("command", word) for word in command]
    if tty:
        params += [("tty", "1"), ("rows", str(rows)), ("cols", str(cols)), ("term", term)]
    async with node.websocket("terminal", "terminal", params=params) as connection:
        await relay(websocket, connection)


def _told(command: list[str], kernel: str) -> dict[str, Any]:
    """What the audit may know: the arguments may hold secrets."""
    return {"program": command[0][:80]} | ({"kernel": kernel} if kernel != "main1" else {})
