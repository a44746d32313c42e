"""How far the node's pulls are, for the API: a look at what is in memory, so that asking often costs nothing."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agent_worker.images.node import NodeImages
from moorage.contracts.dataplane import EVERY_KERNEL, check_token
from moorage.domain.errors import Unauthenticated


def pull_routes(images: NodeImages, *, agent_id: str, key: str) -> list[Route]:
    """`GET /pulls`, as moorage.contracts.dataplane says."""

    async def pulls(request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("the data plane needs a token")
        check_token(key, token, agent_id=agent_id, kernel_id=EVERY_KERNEL, action="pulls")
        return JSONResponse({"items": [asdict(one) for one in images.progress()]})

    return [Route("/pulls", pulls)]
