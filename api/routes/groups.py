"""Resource groups over REST."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api.deps import Parts, Who, With
from api.group_schemas import NEW_GROUP, ChangeGroup, CreateGroup, all_options
from moorage import log
from moorage.db import groups
from moorage.domain.ids import checked_group_name
from moorage.domain.tenancy import Principal

router = APIRouter(prefix="/resource-group", tags=["resource groups"])
_log = log.get("api")


@router.get("", summary="The resource groups one may use")
async def index(who: Who, parts: With) -> Response:
    """Superadmins see all of them, and who may use each."""
    rows = await groups.index(parts.engine)
    return JSONResponse({"items": [_shown(row, who) for row in rows if groups.may_see(row, who)]})


@router.get("/{name}", summary="One resource group with all its options")
async def show(name: str, who: Who, parts: With) -> Response:
    row = await groups.get(parts.engine, name)
    if not groups.may_see(row, who):
        raise groups.unknown(name)
    return JSONResponse(_shown(row, who))


@router.post("", status_code=201, summary="Make a resource group")
async def create(wish: CreateGroup, who: Who, parts: With) -> Response:
    """Superadmins. Its scheduler starts at once; agents join it with MOORAGE_AGENT_RESOURCE_GROUP."""
    name = checked_group_name(wish.name)
    columns = wish.revised(NEW_GROUP)
    columns.pop("name")
    await groups.create(parts.engine, who, name, columns)
    await _schedule(parts, name, columns["policy"])
    return JSONResponse(_shown(await groups.get(parts.engine, name), who), 201)


@router.patch("/{name}", summary="Change a resource group")
async def change(name: str, wish: ChangeGroup, who: Who, parts: With) -> Response:
    """Superadmins. What is left out stays; an option that is null goes back to its default. Live at once."""
    await groups.change(parts.engine, who, name, wish.revised)
    return JSONResponse(_shown(await groups.get(parts.engine, name), who))


@router.delete("/{name}", status_code=204, summary="Remove a resource group")
async def remove(name: str, who: Who, parts: With) -> Response:
    """Superadmins. Refused while agents or live sessions belong to it."""
    await groups.remove(parts.engine, who, name)
    return Response(status_code=204)


def _shown(row: Mapping[str, Any], who: Principal) -> dict[str, Any]:
    shown = {**row, "options": all_options(row["options"])}
    return shown if who.sees_all else {key: value for key, value in shown.items() if not key.startswith("allowed_")}


async def _schedule(parts: Parts, name: str, policy: str) -> None:
    """The group is there already: without Temporal, the reaper or a worker's start makes up for its scheduler."""
    try:
        await parts.lives.schedule(name, policy)
    except Exception as error:
        _log.warning("scheduler not started yet", group=name, error=str(error)[:200])
