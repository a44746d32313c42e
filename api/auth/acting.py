"""Asking as somebody else, where one may: with his rights, and with one's own name beside his."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.memory import Known
from moorage.db import principals, tokens
from moorage.domain.errors import Forbidden, NotFound
from moorage.domain.tenancy import Principal, forbidden


async def acting(engine: AsyncEngine, known: Known, email: str) -> Principal:
    """The active user of that address, as whom one may ask: one who holds nothing that one doesn't hold oneself.

    With a personal access token, he too is held to what the token permits.
    """
    who = known.principal
    found = await principals.named(engine, email)
    if found is None or not _reaches(who, "user:read", found[0]):
        raise NotFound(f"there is no user {email[:254]!r}", code="unknown-user")
    them, is_active = found
    if not _reaches(who, "user:act-as", them):
        raise forbidden(who, "user:act-as")
    if not is_active:
        raise Forbidden(f"{them.email} is not active; nobody acts as an inactive user")
    if known.permissions is not None:
        them = replace(them, held=tokens.cut(them.held, known.permissions))
    if await principals.holds_more(engine, them, than=who):
        raise Forbidden(f"{them.email} may do more than {who.email}, who may therefore not act as {them.email}")
    return replace(them, actor=who.email, actor_id=who.user_id, credential=who.credential, rate_limit=who.rate_limit)


def _reaches(who: Principal, permission: str, them: Principal) -> bool:
    return who.reach(permission).covers(domain=them.domain, projects=tuple(them.projects.values()), user=them.user_id)
