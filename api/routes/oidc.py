"""Log-in through an OpenID Connect provider. What has to be remembered meanwhile, the browser keeps, sealed."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import uuid
from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cryptography.exceptions import InvalidTag
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from api.auth.claims import vouched
from api.auth.oidc import LOOPBACK, Begun, Provider
from api.auth_schemas import Exchange
from api.deps import Parts, With
from api.routes.auth import caller
from api.schemas import Text
from moorage.db import audit, principals
from moorage.db.vouched import admit
from moorage.domain.errors import InvalidRequest, MoorageError, NotFound, Unauthenticated
from moorage.domain.tenancy import Principal

router = APIRouter(prefix="/auth/oidc", tags=["auth"])

_COOKIE = "moorage_oidc"
_PATH = "/auth/oidc"
_COOKIE_S = 600

Word = Annotated[Text, Query(max_length=4096)]


@router.get("/login", summary="Log in at the identity provider", responses={303: {}})
async def login(parts: With, redirect: Word = "") -> Response:
    """Redirects there. `redirect`, http on 127.0.0.1 or [::1], gets a code for `POST /auth/oidc/exchange`."""
    provider = _provider(parts)
    if redirect:
        _check_loopback(redirect)
    url, begun = await provider.begin()
    kept = {**asdict(begun), "redirect": redirect, "until": parts.clock() + _COOKIE_S}
    response = RedirectResponse(url, 303, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        _COOKIE,
        base64.urlsafe_b64encode(parts.seal.seal(json.dumps({"oidc": kept}).encode())).decode(),
        max_age=_COOKIE_S,
        path=_PATH,
        secure=provider.redirect_uri.startswith("https:"),
        httponly=True,
        samesite="lax",
    )
    return response


@router.get("/callback", summary="Back from the identity provider", responses={303: {}})
async def callback(request: Request, parts: With, code: Word = "", state: Word = "", error: Word = "") -> Response:
    """Tokens as from log-in, or a redirect with a code to where the log-in began."""
    provider = _provider(parts)
    try:
        response = await _finish(request, parts, provider, code, state, error)
    except MoorageError as refusal:
        if not refusal.retrying_helps:
            await _denied(parts, refusal)
        raise
    response.delete_cookie(_COOKIE, path=_PATH)
    return response


@router.post("/exchange", summary="Tokens for the code of a log-in at the provider")
async def exchange(wish: Exchange, parts: With) -> Response:
    """Once, within 60 s. A second time ends the log-in."""
    _provider(parts)
    return JSONResponse(await parts.logins.exchange(wish.code), headers={"Cache-Control": "no-store"})


async def _finish(request: Request, parts: Parts, provider: Provider, code: str, state: str, error: str) -> Response:
    begun, redirect = _kept(parts, request.cookies.get(_COOKIE, ""), state)
    if error or not code:
        raise Unauthenticated(f"the provider refused ({error[:80]!r})", code="oidc-refused")
    who = await _admitted(parts, provider, await provider.claims(code, begun))
    login_id = _login_id(begun.state)
    if not redirect:
        tokens = await parts.logins.by_provider(who, login_id, caller(request))
        return JSONResponse(tokens, headers={"Cache-Control": "no-store"})
    handed = await parts.logins.by_provider_later(who, login_id, caller(request))
    return RedirectResponse(_with_code(redirect, handed), 303, headers={"Cache-Control": "no-store"})


async def _admitted(parts: Parts, provider: Provider, claims: Any) -> Principal:
    one = vouched(provider.rules, claims)
    async with parts.engine.begin() as connection:
        user_id = await admit(connection, parts.seal, one, link_by_email=provider.link_by_email)
    found = await principals.by_id(parts.engine, user_id)
    if found is None:
        raise Unauthenticated("this user may not log in now", code="oidc-refused", hint="ask an administrator")
    return found[0]


def _kept(parts: Parts, cookie: str, state: str) -> tuple[Begun, str]:
    """What this browser began with, if this is its answer."""
    try:
        kept = json.loads(parts.seal.open(base64.urlsafe_b64decode(cookie)))["oidc"]
    except (ValueError, KeyError, TypeError, InvalidTag):
        kept = None
    if (
        kept is None
        or kept["until"] < parts.clock()
        or not secrets.compare_digest(kept["state"], state.encode("ascii", "replace").decode())
    ):
        raise Unauthenticated(
            "this answer belongs to no log-in that this browser began", code="oidc-refused",
            hint="begin again at GET /auth/oidc/login",
        )  # fmt: skip
    return Begun(kept["state"], kept["nonce"], kept["verifier"]), kept["redirect"]


def _login_id(state: str) -> str:
    """Each answer counts once: a second one would be the same log-in."""
    return str(uuid.UUID(bytes=hashlib.sha256(state.encode()).digest()[:16], version=4))


async def _denied(parts: Parts, refusal: MoorageError) -> None:
    async with parts.engine.begin() as connection:
        after = {"method": "oidc", "reason": refusal.message}
        await audit.write(connection, None, "auth:login", "", after=after, outcome="denied")


def _provider(parts: Parts) -> Provider:
    if parts.provider is None:
        raise NotFound("no identity provider is set", code="oidc-not-configured", hint="POST /auth/login")
    return parts.provider


def _check_loopback(redirect: str) -> None:
    try:
        parts = urlsplit(redirect)
        fine = parts.scheme == "http" and parts.hostname in LOOPBACK and parts.port is not None
    except ValueError:
        fine = False
    if not fine or "@" in parts.netloc or parts.fragment or not redirect.isascii() or not redirect.isprintable():
        raise InvalidRequest("redirect must be http://127.0.0.1:PORT/… or http://[::1]:PORT/…", code="invalid-redirect")


def _with_code(redirect: str, code: str) -> str:
    parts = urlsplit(redirect)
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), ("code", code)])))
