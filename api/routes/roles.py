"""Roles over REST, and who holds them."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.tenant_schemas import Assign, ChangeRole, CreateRole, Limit, Offset
from moorage.db import assignments, roles

router = APIRouter(tags=["roles"])


@router.get("/role", summary="All roles with their permissions")
async def index(parts: With) -> Response:
    """Built-in ones first."""
    return JSONResponse({"items": await roles.index(parts.engine)})


@router.post("/role", status_code=201, summary="Make a role")
async def create(wish: CreateRole, who: Who, parts: With) -> Response:
    return JSONResponse(await roles.create(parts.engine, who, **wish.model_dump()), 201)


@router.delete("/role/assignment/{assignment_id}", status_code=204, summary="Revoke a role")
async def revoke(assignment_id: str, who: Who, parts: With) -> Response:
    await assignments.revoke(parts.engine, who, assignment_id)
    return Response(status_code=204)


@router.get("/role/{name}", summary="One role")
async def show(name: str, parts: With) -> Response:
    return JSONResponse(await roles.get(parts.engine, name))


@router.patch("/role/{name}", summary="Change a role")
async def change(name: str, wish: ChangeRole, who: Who, parts: With) -> Response:
    """Whoever holds it holds the new permissions at once. Built-in ones stay as they are."""
    return JSONResponse(await roles.change(parts.engine, who, name, wish.sent()))


@router.delete("/role/{name}", status_code=204, summary="Delete a role")
async def remove(name: str, who: Who, parts: With) -> Response:
    """Refused while somebody holds it, with who."""
    await roles.remove(parts.engine, who, name)
    return Response(status_code=204)


@router.get("/role/{name}/assignment", summary="Who holds a role, of those one may see")
async def index_of_role(name: str, who: Who, parts: With, limit: Limit = 20, offset: Offset = 0) -> Response:
    await roles.get(parts.engine, name)
    items, total = await assignments.index(parts.engine, who, role=name, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("/role/{name}/assignment", status_code=201, summary="Give a role to a user")
async def assign(name: str, wish: Assign, who: Who, parts: With) -> Response:
    """Nobody hands out more than he holds there himself, nor for longer."""
    made = await assignments.assign(parts.engine, who, name, **wish.model_dump())
    return JSONResponse(made, 201)


@router.get("/assignment", summary="Who holds which role, of those one may see")
async def index_assignments(
    who: Who,
    parts: With,
    role: str | None = None,
    user: str | None = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> Response:
    """Without ranks, which the list of users shows."""
    items, total = await assignments.index(parts.engine, who, role=role, user=user, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})
