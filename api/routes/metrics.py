"""What Prometheus scrapes. The API alone is asked: nothing but its data plane listens on a node."""

from __future__ import annotations

from itertools import chain

from fastapi import APIRouter, Response

from api import families
from api.deps import Who, With
from api.exposition import CONTENT_TYPE, written
from api.measured import Node, ask
from moorage.db import usage
from moorage.db.gauges import gauges
from moorage.domain.tenancy import forbidden

router = APIRouter()


@router.get(
    "/metrics",
    summary="All metrics, for Prometheus",
    tags=["stats"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(who: Who, parts: With) -> Response:
    """For who may read every session (superadmins, monitors): it names users and projects. Asks each node once."""
    if not who.sees_all:
        raise forbidden(who, "session:read")
    found = await gauges(parts.engine)
    answers = await ask(parts, [Node(row["id"], row["address"], row["status"]) for row in found.agents])
    whose = await usage.labels(parts.engine)
    everything = chain(
        families.control_plane(found), families.nodes(found, answers), families.containers(answers.by_agent, whose)
    )
    return Response(written(everything), media_type=CONTENT_TYPE)
