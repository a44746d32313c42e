"""Images over REST: where they are, ahead of sessions and away again, which may run, and how far pulls are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import pulls
from api.deps import Parts, Who, With
from api.image_schemas import AllowImages, OrderImage
from api.measured import Node
from api.schemas import Text
from moorage import log
from moorage.db import image_orders, images, sessions, usage
from moorage.domain.image_orders import NodeState, OrderKind
from moorage.domain.images import checked_image, tagged
from moorage.domain.session import SessionStatus
from moorage.domain.tenancy import Principal

router = APIRouter(tags=["images"])
_log = log.get("api")


@router.get("/image", summary="The images on the living nodes")
async def index(who: Who, parts: With) -> Response:
    """By name and digest: size, nodes, last use. Of those that one's domain may run."""
    return JSONResponse({"items": await images.index(parts.engine, who)})


@router.post("/image/pull", status_code=202, summary="Pull an image to nodes ahead of its sessions")
async def pull(wish: OrderImage, who: Who, parts: With) -> Response:
    """Superadmins. On the living nodes of a group, on some agents, or on all; a tag is looked up anew."""
    return await _order(wish, who, parts, OrderKind.PULL)


@router.post("/image/remove", status_code=202, summary="Remove an image from nodes")
async def remove(wish: OrderImage, who: Who, parts: With) -> Response:
    """Superadmins. A node where a container has it refuses, and says which."""
    return await _order(wish, who, parts, OrderKind.REMOVE)


async def _order(wish: OrderImage, who: Principal, parts: Parts, kind: OrderKind) -> Response:
    """If the workflow can't be started now, the reaper starts it."""
    order, _ = await image_orders.begin(
        parts.engine, who, kind, tagged(checked_image(wish.image)), group=wish.resource_group, agents=wish.agents
    )
    try:
        await parts.lives.order_images(order)
    except Exception as error:
        _log.warning("workflow not started yet", order=order.order_id, error=str(error)[:200])
    return JSONResponse(await _shown(parts, order.order_id), 202)


@router.get("/image/order/{order_id}", summary="How an order about an image fares on each node")
async def order(order_id: str, who: Who, parts: With) -> Response:
    """`waiting`, `done` or `failed`, with words; nodes that pull now say how far they are."""
    return JSONResponse(await _shown(parts, order_id))


async def _shown(parts: Parts, order_id: str) -> dict[str, Any]:
    found = await image_orders.get(parts.engine, order_id)
    nodes = found["nodes"] or []
    waiting = [one for one in nodes if one["state"] == NodeState.WAITING and found["kind"] == OrderKind.PULL]
    answers = await pulls.ask(parts, [Node(one["agent"], one["address"], one["status"]) for one in waiting])
    for one in nodes:
        del one["address"], one["status"]
        progress = pulls.of_image(answers.get(one["agent"], []), found["image"])
        one["progress"] = pulls.shown(one["agent"], progress) if progress else None
    return found


@router.get("/image/allowed", summary="Which images may run")
async def allowed(who: Who, parts: With) -> Response:
    """The patterns that apply to one; without any, everything may run."""
    return JSONResponse({"items": await images.patterns(parts.engine, who)})


@router.post("/image/allowed", status_code=201, summary="Allow images by a pattern")
async def allow(wish: AllowImages, who: Who, parts: With) -> Response:
    """Superadmins. In one domain or everywhere; with the first pattern all that none matches is refused."""
    await images.allow(parts.engine, who, wish.pattern, wish.domain)
    return JSONResponse({"pattern": wish.pattern, "domain": wish.domain}, 201)


@router.delete("/image/allowed", status_code=204, summary="Take a pattern away")
async def disallow(pattern: Text, who: Who, parts: With, domain: Text | None = None) -> Response:
    """Superadmins. What runs goes on; without any pattern everything may run again."""
    await images.disallow(parts.engine, who, pattern, domain)
    return Response(status_code=204)


@router.get("/session/{ref}/progress", summary="How far a session's image is")
async def progress(ref: str, who: Who, parts: With) -> Response:
    """While it is PREPARING: the pulls on its nodes. Its nodes are asked; nothing of it is written anywhere."""
    row = await sessions.find(parts.engine, who, ref)
    found: list[dict[str, Any]] = []
    if row["status"] == SessionStatus.PREPARING:
        places = await usage.places(parts.engine, [str(row["id"])])
        nodes = {Node(one.agent, one.address or "", one.agent_status or "") for one in places if one.agent}
        answers = await pulls.ask(parts, nodes)
        digest = next((one["image_digest"] for one in row["kernels"] or [] if one["image_digest"]), "")
        for agent_id in sorted(answers):
            one = pulls.of_image(answers[agent_id], row["image"], digest)
            found += [pulls.shown(agent_id, one)] if one else []
    session = {"id": str(row["id"]), "name": row["name"], "status": row["status"]}
    return JSONResponse({"session": session, "pulls": found})
