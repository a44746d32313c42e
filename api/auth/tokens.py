"""Tokens from log-in (Bearer, HS256): made for an e-mail address and password, and verified."""

from __future__ import annotations

import time

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import principals
from moorage.domain.errors import Unauthenticated
from moorage.domain.tenancy import Principal

TOKEN_LIFETIME_S = 3600
_ISSUER = "moorage"
_hasher = PasswordHasher()
# Verified for an unknown user, so that it takes as long as a wrong password.
_NOBODY = _hasher.hash("nobody")


class Tokens:
    def __init__(self, engine: AsyncEngine, jwt_key: str) -> None:
        self._engine = engine
        self._key = OctKey.import_key(jwt_key)

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

    async def by_token(self, token: str) -> Principal:
        """The user that the token was made for; Unauthenticated says nothing about what exists."""
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
