"""Users over REST, by e-mail address or id; and oneself."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from api import removal
from api.deps import Who, With
from api.tenant_schemas import ChangeSelf, ChangeUser, CreateUser, Limit, Offset, SetPassword, Status
from moorage.db import departures, user_access, users, whoami
from moorage.domain.tenancy import Rank

router = APIRouter(tags=["users"])


@router.get("/whoami", summary="Who asks, and what it may do")
async def show_self(who: Who, parts: With) -> Response:
    return JSONResponse(await whoami.get(parts.engine, who))


@router.patch("/whoami", summary="Change oneself")
async def change_self(wish: ChangeSelf, who: Who, parts: With) -> Response:
    """Names, description, main project, and where one may come from."""
    return JSONResponse(await whoami.change(parts.engine, who, wish.sent()))


@router.get("/user", summary="The users that one may see")
async def index(
    who: Who,
    parts: With,
    domain: str | None = None,
    project: str | None = None,
    status: Status | Literal["deleted"] | None = None,
    email: str | None = None,
    role: Rank | None = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> Response:
    """By e-mail address, of which `email` is a part; without `status` all but deleted ones."""
    items, total = await users.index(
        parts.engine,
        who,
        domain=domain,
        project=project,
        status=status,
        email=email,
        role=role,
        limit=limit,
        offset=offset,
    )
    return JSONResponse({"items": items, "total": total, "limit": limit, "offset": offset})


@router.post("/user", status_code=201, summary="Make a user")
async def create(wish: CreateUser, who: Who, parts: With) -> Response:
    """With a key pair, unless `keypair` is false: its secret key is shown this once."""
    return JSONResponse(await users.create(parts.engine, parts.seal, who, wish.checked()), 201)


@router.get("/user/{ref}", summary="One user")
async def show(ref: str, who: Who, parts: With) -> Response:
    return JSONResponse(await users.get(parts.engine, who, ref))


@router.patch("/user/{ref}", summary="Change a user")
async def change(ref: str, wish: ChangeUser, who: Who, parts: With) -> Response:
    """Nobody changes somebody who holds more than himself, nor makes anybody more than he is."""
    return JSONResponse(await users.change(parts.engine, who, ref, wish.sent()))


@router.delete("/user/{ref}", summary="Delete a user")
async def remove(ref: str, who: Who, parts: With, dry_run: bool = False, force: bool = False) -> Response:
    """Answers what it owned. Refused while its sessions live; `force=true` asks them to end first.

    Its keys, tokens and log-ins end at once; its name stays until it is purged. `dry_run=true` only tells.
    """
    if dry_run:
        return JSONResponse({"owns": await departures.owned(parts.engine, who, ref)})
    return JSONResponse({"owns": await removal.delete_user(parts, who, ref, forced=force)})


@router.post("/user/{ref}/purge", summary="Remove all that is personal of a deleted user for good")
async def purge(ref: str, who: Who, parts: With) -> Response:
    return JSONResponse({"removed": await departures.purge(parts.engine, who, ref)})


@router.post("/user/{ref}/password", status_code=204, summary="Give a user another password")
async def set_password(ref: str, wish: SetPassword, who: Who, parts: With) -> Response:
    """All its log-ins end. Null takes the password away."""
    await user_access.set_password(parts.engine, who, ref, wish.password, need_change=wish.need_change)
    return Response(status_code=204)


@router.post("/user/{ref}/unlock", status_code=204, summary="Forget a user's wrong passwords")
async def unlock(ref: str, who: Who, parts: With) -> Response:
    await user_access.unlock(parts.engine, who, ref)
    return Response(status_code=204)


@router.delete("/user/{ref}/totp", status_code=204, summary="Remove a user's second factor")
async def remove_totp(ref: str, who: Who, parts: With) -> Response:
    """For a user who lost it. All its log-ins end."""
    await user_access.remove_totp(parts.engine, who, ref)
    return Response(status_code=204)
