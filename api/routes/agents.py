"""The nodes over REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.group_schemas import ChangeAgent
from moorage.db import agents
from moorage.domain.errors import Conflict
from moorage.domain.tenancy import Principal

router = APIRouter(prefix="/agent", tags=["cluster"])


@router.get("", summary="The nodes")
async def index(who: Who, parts: With) -> Response:
    """Their data plane addresses are shown to superadmins only."""
    return JSONResponse({"items": [_shown(agent, who) for agent in await agents.index(parts.engine)]})


@router.patch("/{agent_id}", summary="Cordon or uncordon a node")
async def change(agent_id: str, wish: ChangeAgent, who: Who, parts: With) -> Response:
    """Superadmins. A node that isn't schedulable takes no new sessions; those on it go on."""
    await agents.set_schedulable(parts.engine, who, agent_id, schedulable=wish.schedulable)
    return JSONResponse(_shown(await agents.get(parts.engine, agent_id), who))


@router.post("/{agent_id}/drain", status_code=202, summary="Empty a node")
async def drain(agent_id: str, who: Who, parts: With) -> Response:
    """Superadmins. Cordons the node, then asks its sessions that may move to move."""
    await agents.set_schedulable(parts.engine, who, agent_id, schedulable=False, drained=True)
    if not await parts.lives.drain(agent_id):
        raise Conflict(
            f"agent {agent_id} has no workflow that could empty it; it is cordoned",
            code="agent-without-workflow",
            hint="start the agent, then drain it again",
        )
    return JSONResponse(_shown(await agents.get(parts.engine, agent_id), who), 202)


@router.delete("/{agent_id}", status_code=204, summary="Remove a node that is gone for good")
async def remove(agent_id: str, who: Who, parts: With) -> Response:
    """Superadmins. Only a lost node on which no session holds room; it comes back if it registers again."""
    await agents.remove(parts.engine, who, agent_id)
    await parts.lives.retire(agent_id)
    return Response(status_code=204)


def _shown(agent: Mapping[str, Any], who: Principal) -> dict[str, Any]:
    return {
        **{key: value for key, value in agent.items() if key != "status_changed"},
        "address": agent["address"] if who.sees_all else None,
        "last_seen": agent["status_changed"].isoformat(),
    }
