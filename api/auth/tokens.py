"""Signed tokens: what a log-in hands out, and who stands behind one that comes back.

HS256 with a key ring: the first key signs, `kid` says which one verifies. The audience tells access, refresh and
exchange apart, so that none of them passes for another.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import GuestProtocol, OctKey
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import principals
from moorage.domain.errors import InvalidRequest, Unauthenticated
from moorage.domain.tenancy import Principal

ACCESS, REFRESH, EXCHANGE = "moorage", "moorage-refresh", "moorage-exchange"
_ISSUER = "moorage"
_SHORTEST_SECRET = 32
_WORDS = "the token is not valid or has expired; log in again"

Clock = Callable[[], float]


class Tokens:
    """`keys` reads `id:secret[,id:secret...]`."""

    def __init__(self, engine: AsyncEngine, keys: str, *, lifetime_s: int = 900, clock: Clock = time.time) -> None:
        self._engine = engine
        self._ring = key_ring(keys)
        self._lifetime_s = lifetime_s
        self._clock = clock

    def access(self, user_id: str, login_id: str, *, ends_at: float) -> tuple[str, int]:
        """(token, seconds it is valid); it never outlives its log-in."""
        now = int(self._clock())
        lifetime_s = max(1, min(self._lifetime_s, int(ends_at) - now))
        claims = {"sub": user_id, "sid": login_id, "iat": now, "exp": now + lifetime_s, "jti": secrets.token_hex(16)}
        return self._signed(ACCESS, claims), lifetime_s

    def refresh(self, user_id: str, login_id: str, generation: int, *, ends_at: float) -> str:
        """The same for the same values, so that an answer that got lost can be given again."""
        return next(self.refreshes(user_id, login_id, generation, ends_at=ends_at))

    def refreshes(self, user_id: str, login_id: str, generation: int, *, ends_at: float) -> Iterator[str]:
        """The refresh token of a generation as each key of the ring signs it."""
        claims = {"sub": user_id, "sid": login_id, "gen": generation, "exp": int(ends_at)}
        return (self._signed(REFRESH, claims, key_id=key_id) for key_id in self._ring)

    def exchange(self, user_id: str, login_id: str, *, ends_at: float) -> str:
        """What is turned into tokens once."""
        return self._signed(EXCHANGE, {"sub": user_id, "sid": login_id, "gen": 0, "exp": int(ends_at)})

    def read(self, token: str, audience: str) -> Mapping[str, Any]:
        """The claims of a token that this cluster signed for that audience and that has not expired."""
        try:
            claims = jwt.decode(token, self._key_of, algorithms=["HS256"]).claims
        except (JoseError, ValueError):
            raise Unauthenticated(_WORDS) from None
        expires_at = claims.get("exp")
        if claims.get("iss") != _ISSUER or claims.get("aud") != audience or not isinstance(expires_at, int):
            raise Unauthenticated(_WORDS)
        if expires_at <= self._clock() or not all(isinstance(claims.get(name), str) for name in ("sub", "sid")):
            raise Unauthenticated(_WORDS)
        return claims

    async def by_token(self, token: str) -> Principal:
        """The active user whose log-in this access token belongs to, unless that log-in was ended."""
        claims = self.read(token, ACCESS)
        found = await principals.by_login(self._engine, claims["sid"])
        if found is None or found[0].user_id != claims["sub"]:
            raise Unauthenticated(_WORDS)
        return replace(found[0], credential=f"login:{claims['sid']}")

    def left_s(self, token: str) -> float:
        """How long a valid access token is valid yet."""
        return float(self.read(token, ACCESS)["exp"]) - self._clock()

    def _signed(self, audience: str, claims: Mapping[str, Any], *, key_id: str = "") -> str:
        key_id = key_id or next(iter(self._ring))
        header = {"alg": "HS256", "kid": key_id}
        return jwt.encode(header, {"iss": _ISSUER, "aud": audience, **claims}, self._ring[key_id])

    def _key_of(self, token: GuestProtocol) -> OctKey:
        key_id = token.headers().get("kid")
        if not isinstance(key_id, str) or key_id not in self._ring:
            raise InvalidKeyIdError()
        return self._ring[key_id]


def key_ring(text: str) -> dict[str, OctKey]:
    """Id → key, in order. Refuses what is malformed and what could be guessed."""
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    if not pairs or not all(key_id and secret for key_id, _, secret in pairs):
        raise InvalidRequest("MOORAGE_JWT_KEYS must be id:secret, comma separated", code="missing-setting")
    short = [key_id for key_id, _, secret in pairs if len(secret.encode()) < _SHORTEST_SECRET]
    if short:
        raise InvalidRequest(
            f"MOORAGE_JWT_KEYS: the secret of {short[0]!r} is shorter than {_SHORTEST_SECRET} bytes",
            code="missing-setting",
            hint="make one with `openssl rand -hex 32`",
        )
    if len({key_id for key_id, _, _ in pairs}) < len(pairs):
        raise InvalidRequest("MOORAGE_JWT_KEYS names a key twice", code="missing-setting")
    return {key_id: OctKey.import_key(secret) for key_id, _, secret in pairs}
