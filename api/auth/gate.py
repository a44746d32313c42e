"""Who asks: an access key with its secret (HTTP Basic), or a token from log-in (Bearer)."""

from __future__ import annotations

import base64
import hmac
import time
from collections import OrderedDict

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import principals
from moorage.domain.errors import Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

TOKEN_LIFETIME_S = 3600
# A key that was switched off may work for so long; a request costs no SQL for it meanwhile.
_REMEMBER_S = 5.0
_REMEMBER_AT_MOST = 4096
_ISSUER = "moorage"
_hasher = PasswordHasher()
# Verified for an unknown user, so that it takes as long as a wrong password.
_NOBODY = _hasher.hash("nobody")


class Authentication:
    def __init__(self, engine: AsyncEngine, seal: Seal, jwt_key: str) -> None:
        self._engine = engine
        self._seal = seal
        self._key = OctKey.import_key(jwt_key)
        self._known: OrderedDict[str, tuple[float, Principal]] = OrderedDict()

    async def login(self, email: str, password: str) -> tuple[str, int]:
        """(token, seconds it is valid)."""
        found = await principals.by_email(self._engine, email)
        try:
            _hasher.verify((found and found[1]["password_hash"]) or _NOBODY, password)
        except VerifyMismatchError:
            found = None
        if found is None:
            raise Unauthenticated("e-mail or password is wrong")
        who = found[0]
        now = int(time.time())
        claims = {"iss": _ISSUER, "sub": who.user_id, "iat": now, "exp": now + TOKEN_LIFETIME_S}
        return jwt.encode({"alg": "HS256"}, claims, self._key), TOKEN_LIFETIME_S

    async def principal(self, authorization: str) -> Principal:
        """The user behind an Authorization header; Unauthenticated says nothing about what exists."""
        known = self._known.get(authorization)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        scheme, _, credential = authorization.partition(" ")
        if scheme.lower() == "basic":
            who = await self._by_key(credential.strip())
        elif scheme.lower() == "bearer":
            who = await self._by_token(credential.strip())
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

    async def _by_token(self, token: str) -> Principal:
        try:
            claims = jwt.decode(token, self._key, algorithms=["HS256"]).claims
        except (JoseError, ValueError):
            raise Unauthenticated("the token is not valid; log in again") from None
        if claims.get("iss") != _ISSUER or not isinstance(claims.get("exp"), int) or claims["exp"] < time.time():
            raise Unauthenticated("the token has expired; log in again")
        found = await principals.by_id(self._engine, str(claims.get("sub")))
        if found is None:
            raise Unauthenticated("the token is not valid; log in again")
        return found[0]
