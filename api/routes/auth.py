"""Log-in, log-out, passwords and one-time codes over REST."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from api.auth.logins import Caller
from api.auth_schemas import ChangeExpired, ChangePassword, Code, LogIn, LogOut, Refresh
from api.deps import Who, With
from moorage.db import audit
from moorage.domain.errors import Forbidden
from moorage.domain.tenancy import Principal

router = APIRouter(prefix="/auth", tags=["auth"])


@router.post("/login", summary="Tokens for e-mail and password")
async def login(wish: LogIn, request: Request, parts: With) -> Response:
    """`token` is for `Authorization: Bearer`, valid for `expires_in` seconds; `refresh_token` gets the next one."""
    return _secret(await parts.logins.by_password(wish.email, wish.password, wish.otp, caller(request)))


@router.post("/refresh", summary="New tokens for a refresh token")
async def refresh(wish: Refresh, parts: With) -> Response:
    """Each refresh token works once, and for 10 s more for whoever lost the answer. Later use ends the log-in."""
    return _secret(await parts.logins.refresh(wish.refresh_token))


@router.post("/logout", summary="End this log-in, or all")
async def logout(who: Who, parts: With, wish: LogOut | None = None) -> dict[str, int]:
    """`ended` log-ins; their tokens are refused from now on."""
    everywhere = wish is not None and wish.all
    login_id = _login_of(who)
    if not login_id and not everywhere:
        raise Forbidden("this request came with no log-in", code="no-login", hint='send {"all": true}')
    ended = await parts.logins.logout(_oneself(who), login_id, everywhere=everywhere)
    return {"ended": ended}


@router.get("/logins", summary="One's own log-ins")
async def index(who: Who, parts: With) -> Response:
    """Those that go on, the newest first."""
    return JSONResponse({"items": await parts.logins.index(who, _login_of(who))})


@router.delete("/logins/{login_id}", status_code=204, summary="End one of one's own log-ins")
async def end(login_id: str, who: Who, parts: With) -> Response:
    """Its tokens are refused from now on."""
    await parts.logins.end(_oneself(who), login_id)
    return Response(status_code=204)


@router.post("/password", status_code=204, summary="Change one's own password")
async def change_password(wish: ChangePassword, who: Who, parts: With) -> Response:
    """Every other log-in ends."""
    await parts.proof.change_own(_oneself(who), wish.old, wish.new, login_id=_login_of(who))
    return Response(status_code=204)


@router.post("/password-expired", status_code=204, summary="Change a password that has expired")
async def change_expired(wish: ChangeExpired, parts: With) -> Response:
    """Without being logged in. Every log-in ends."""
    await parts.proof.change_expired(wish.email, wish.old, wish.new, wish.otp)
    return Response(status_code=204)


@router.post("/totp", summary="Begin with one-time codes")
async def start_codes(who: Who, parts: With) -> Response:
    """A secret and its `otpauth:` address for an app; in force once confirmed."""
    return _secret(await parts.proof.start_codes(_oneself(who)))


@router.post("/totp/confirm", status_code=204, summary="Turn one-time codes on")
async def confirm_codes(wish: Code, who: Who, parts: With) -> Response:
    """With a code of the app. From now on a log-in needs one."""
    await parts.proof.confirm_codes(_oneself(who), wish.otp)
    return Response(status_code=204)


@router.delete("/totp", status_code=204, summary="Turn one-time codes off")
async def end_codes(wish: Code, who: Who, parts: With) -> Response:
    """With a code; who has lost the app asks an administrator."""
    await parts.proof.end_codes(_oneself(who), wish.otp)
    return Response(status_code=204)


def caller(request: Request) -> Caller:
    """From where, as the audit knows it; the client in characters that do no harm."""
    known = audit.asking.get()
    address = (known and known.address) or (request.client.host if request.client else "")
    client = "".join(char for char in request.headers.get("user-agent", "") if " " <= char <= "~")
    return Caller(address, client[:200])


def _oneself(who: Principal) -> Principal:
    """Neither somebody who acts as the user nor a token that was handed out changes how the user logs in."""
    if who.actor or who.credential.startswith("token:"):
        raise Forbidden("only the user itself may do this", code="not-oneself", hint="log in as this user")
    return who


def _login_of(who: Principal) -> str:
    kind, _, login_id = who.credential.partition(":")
    return login_id if kind == "login" else ""


def _secret(answer: dict[str, Any]) -> Response:
    """Nobody on the way keeps it."""
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})
