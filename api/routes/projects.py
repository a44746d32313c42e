"""Projects over REST. A reference is an id, `domain:name`, or a name in one's own domain."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import removal
from api.deps import Who, With
from api.tenant_schemas import AddMember, ChangeProject, CreateProject, Limit, Offset
from moorage.db import members, projects

router = APIRouter(prefix="/project", tags=["projects"])


@router.get("", summary="The projects that one may see")
async def index(
    who: Who,
    parts: With,
    domain: str | None = None,
    deleted: bool = False,
    limit: Limit = 20,
    offset: Offset = 0,
) -> Response:
    """By domain and name. With `deleted=true` those that were deleted and are not purged."""
    items, total = await projects.index(parts.engine, who, domain=domain, deleted=deleted, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("", status_code=201, summary="Make a project")
async def create(wish: CreateProject, who: Who, parts: With) -> Response:
    return JSONResponse(await projects.create(parts.engine, who, **wish.model_dump()), 201)


@router.get("/{ref}", summary="One project")
async def show(ref: str, who: Who, parts: With) -> Response:
    return JSONResponse(await projects.get(parts.engine, who, ref))


@router.patch("/{ref}", summary="Change a project")
async def change(ref: str, wish: ChangeProject, who: Who, parts: With) -> Response:
    """A project's own administrators change the description only. An inactive project takes no new sessions."""
    return JSONResponse(await projects.change(parts.engine, who, ref, wish.sent()))


@router.delete("/{ref}", summary="Delete a project")
async def remove(ref: str, who: Who, parts: With, dry_run: bool = False, force: bool = False) -> Response:
    """Answers what it owned. Refused while live sessions or members without another project are left.

    `dry_run=true` only tells; `force=true` asks the sessions to end, and leaves such members without a project.
    """
    if dry_run:
        return JSONResponse({"owns": await projects.owned(parts.engine, who, ref)})
    return JSONResponse({"owns": await removal.delete_project(parts, who, ref, forced=force)})


@router.post("/{ref}/purge", summary="Remove what is left of a deleted project for good")
async def purge(ref: str, who: Who, parts: With) -> Response:
    return JSONResponse({"removed": await projects.purge(parts.engine, who, ref)})


@router.get("/{ref}/member", summary="The members of a project that one may see")
async def index_members(ref: str, who: Who, parts: With, limit: Limit = 20, offset: Offset = 0) -> Response:
    items, total = await members.index(parts.engine, who, ref, limit=limit, offset=offset)
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("/{ref}/member", status_code=201, summary="Add a user to a project")
async def add_member(ref: str, wish: AddMember, who: Who, parts: With) -> Response:
    """A user of the project's domain. Nothing happens if it is a member already."""
    return JSONResponse(await members.add(parts.engine, who, ref, wish.user), 201)


@router.delete("/{ref}/member/{user}", status_code=204, summary="Take a user out of a project")
async def remove_member(ref: str, user: str, who: Who, parts: With) -> Response:
    """Refused for a user's last project. Its sessions there go on."""
    await members.remove(parts.engine, who, ref, user)
    return Response(status_code=204)
