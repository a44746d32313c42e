"""Who asks: an access key with its secret (HTTP Basic), or a token from log-in (Bearer)."""

from __future__ import annotations

import base64
import hmac
import time
from collections import OrderedDict

from sqlalchemy.ext.asyncio import AsyncEngine

from api.auth.tokens import Tokens
from moorage.db import principals
from moorage.domain.errors import Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

# A key that was switched off may work for so long; a request costs no SQL for it meanwhile.
_REMEMBER_S = 5.0
_REMEMBER_AT_MOST = 4096


class Authentication:
    def __init__(self, engine: AsyncEngine, seal: Seal, tokens: Tokens) -> None:
        self._engine = engine
        self._seal = seal
        self._tokens = tokens
        self._known: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    async def principal(self, authorization: str) -> Principal:
        """The user behind an Authorization header; Unauthenticated says nothing about what exists."""
        known = self._known.get(authorization)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "basic":
            who = await self._by_key(credential.strip())
        elif scheme.lower() == "bearer":
            return await self._tokens.by_token(credential.strip())
        else:
            raise Unauthenticated("log in: send an access key (Basic) or a token (Bearer)", hint="POST /auth/login")
        self._known[authorization] = (time.monotonic() + _REMEMBER_S, who)
        while len(self._known) > _REMEMBER_AT_MOST:
            self._known.popitem(last=False)
        return who

    async def _by_key(self, credential: str) -> Principal:
        try:
            access_key, _, secret = base64.b64decode(credential, validate=True).decode().partition(":")
        except ValueError:
            raise Unauthenticated("the access key or its secret is wrong") from None
        found = await principals.by_access_key(self._engine, access_key)
        right = self._seal.open(found[1]["secret"]) if found is not None else b"\0"
        if found is None or not hmac.compare_digest(right, secret.encode()):
            raise Unauthenticated("the access key or its secret is wrong")
        return found[0]
