"""Log-in, refresh and log-out: from a proof of who one is to tokens, and their end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from api.auth.proof import Proof, Proven
from api.auth.tokens import EXCHANGE, REFRESH, Clock, Tokens
from moorage.db import attempts, audit, logins, passwords
from moorage.domain.errors import NotFound, Unauthenticated
from moorage.domain.ids import new_id
from moorage.domain.tenancy import Principal

# An answer may get lost: for so long the refresh token before gets the same answer again.
GRACE_S = 10.0
_EXCHANGE_S = 60.0


@dataclass(frozen=True, slots=True)
class Caller:
    """From where a log-in comes, as its owner sees it in the list."""

    address: str = ""
    client: str = ""


class Logins:
    def __init__(
        self,
        engine: AsyncEngine,
        proof: Proof,
        tokens: Tokens,
        *,
        lifetime_s: float,
        clock: Clock,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        """`forget` is called when log-ins have ended, for whoever remembers that they go on."""
        self._engine = engine
        self._proof = proof
        self._tokens = tokens
        self._lifetime_s = lifetime_s
        self._clock = clock
        self._forget = forget

    async def by_password(self, email: str, password: str, otp: str, caller: Caller) -> dict[str, Any]:
        """Tokens for whoever proves to be that user."""
        proven = await self._proof.of_user(email, password, otp)
        login_id, now = new_id(), self._clock()
        ends_at = now + self._lifetime_s
        refresh = self._tokens.refresh(proven.who.user_id, login_id, 1, ends_at=ends_at)
        async with self._engine.begin() as connection:
            await settle(connection, proven)
            await self._begin(connection, proven.who, login_id, refresh, caller, "password")
        return self._answer(proven.who.user_id, login_id, refresh, ends_at)

    async def by_provider(self, who: Principal, login_id: str, caller: Caller) -> dict[str, Any]:
        """Tokens for whoever an identity provider vouches for."""
        ends_at = self._clock() + self._lifetime_s
        refresh = self._tokens.refresh(who.user_id, login_id, 1, ends_at=ends_at)
        async with self._engine.begin() as connection:
            await self._begin(connection, who, login_id, refresh, caller, "oidc")
        return self._answer(who.user_id, login_id, refresh, ends_at)

    async def by_provider_later(self, who: Principal, login_id: str, caller: Caller) -> str:
        """A code that `exchange` turns into tokens, once and soon."""
        code = self._tokens.exchange(who.user_id, login_id, ends_at=self._clock() + _EXCHANGE_S)
        async with self._engine.begin() as connection:
            await self._begin(connection, who, login_id, code, caller, "oidc")
        return code

    async def exchange(self, code: str) -> dict[str, Any]:
        """Tokens for a code. A second time ends the log-in."""
        return await self._next(code, EXCHANGE, grace_s=0.0)

    async def refresh(self, token: str) -> dict[str, Any]:
        """New tokens for a refresh token, which works once. One that was used before is stolen: all ends."""
        return await self._next(token, REFRESH, grace_s=GRACE_S)

    async def logout(self, who: Principal, login_id: str, *, everywhere: bool) -> int:
        """Ends this log-in or all; their access tokens are refused from now on. How many ended."""
        async with self._engine.begin() as connection:
            ended = await self._end(connection, who.user_id, "" if everywhere else login_id)
            if ended:
                await audit.write(connection, who, "auth:logout", login_id, after={"ended": ended, "all": everywhere})
        self._forget()
        return ended

    async def end(self, who: Principal, login_id: str) -> None:
        """Ends one of one's own log-ins."""
        async with self._engine.begin() as connection:
            if not await logins.revoke(connection, who.user_id, login_id, now=self._clock()):
                raise NotFound("there is no such log-in", code="unknown-login", hint="GET /auth/logins lists yours")
            await audit.write(connection, who, "auth:logout", login_id, after={"ended": 1, "all": False})
        self._forget()

    async def index(self, who: Principal, current: str) -> list[dict[str, Any]]:
        rows = await logins.index(self._engine, who.user_id, now=self._clock())
        return [{**row, "current": row["id"] == current} for row in rows]

    async def _end(self, connection: AsyncConnection, user_id: str, login_id: str) -> int:
        if login_id:
            return int(await logins.revoke(connection, user_id, login_id, now=self._clock()))
        return await logins.revoke_all(connection, user_id, now=self._clock())

    async def _begin(
        self, connection: AsyncConnection, who: Principal, login_id: str, token: str, caller: Caller, method: str
    ) -> None:
        now = self._clock()
        begun = await logins.begin(
            connection,
            login_id,
            user_id=who.user_id,
            refresh_hash=_hash(token),
            now=now,
            ends_at=now + self._lifetime_s,
            address=caller.address,
            client=caller.client,
            method=method,
        )
        if not begun:
            raise Unauthenticated("this log-in was used already; begin again")
        after = {"method": method, "client": caller.client}
        await audit.write(connection, who, "auth:login", login_id, after=after)

    async def _next(self, token: str, audience: str, *, grace_s: float) -> dict[str, Any]:
        claims = self._tokens.read(token, audience)
        async with self._engine.begin() as connection:
            row = await logins.lock(connection, claims["sid"], now=self._clock())
            successor = await self._rotated(connection, row, token, int(claims["gen"]), grace_s) if row else ""
            if row and not successor:
                await self._stolen(connection, row)
        if row is None or not successor:
            self._forget()
            raise Unauthenticated("this log-in has ended; log in again")
        return self._answer(str(row["user_id"]), str(row["id"]), successor, row["expires_at"].timestamp())

    async def _rotated(
        self, connection: AsyncConnection, row: Mapping[str, Any], token: str, generation: int, grace_s: float
    ) -> str:
        """What comes after this token; nothing when it was used before."""
        user_id, login_id, ends_at = str(row["user_id"]), str(row["id"]), row["expires_at"].timestamp()
        if _hash(token) == row["refresh_hash"]:
            successor = self._tokens.refresh(user_id, login_id, generation + 1, ends_at=ends_at)
            await logins.rotate(connection, login_id, refresh_hash=_hash(successor), now=self._clock())
            return successor
        is_previous = _hash(token) == row["previous_hash"] and row["rotated_at"] is not None
        if not is_previous or self._clock() - row["rotated_at"].timestamp() > grace_s:
            return ""
        again = self._tokens.refreshes(user_id, login_id, generation + 1, ends_at=ends_at)
        return next((one for one in again if _hash(one) == row["refresh_hash"]), "")

    async def _stolen(self, connection: AsyncConnection, row: Mapping[str, Any]) -> None:
        """Whoever uses a token again is not whom it was given to, or the other one was not: both are out."""
        user_id, login_id = str(row["user_id"]), str(row["id"])
        await logins.revoke(connection, user_id, login_id, now=self._clock())
        after = {"reason": "a refresh token was used again", "revoked": True}
        await audit.write(
            connection, None, "auth:refresh", login_id, after=after, outcome="denied", domain=row["domain"],
            user_id=user_id,
        )  # fmt: skip

    def _answer(self, user_id: str, login_id: str, refresh: str, ends_at: float) -> dict[str, Any]:
        token, lifetime_s = self._tokens.access(user_id, login_id, ends_at=ends_at)
        return {
            "token": token,
            "token_type": "Bearer",
            "expires_in": lifetime_s,
            "refresh_token": refresh,
            "refresh_expires_in": max(0, round(ends_at - self._clock())),
        }


async def settle(connection: AsyncConnection, proven: Proven) -> None:
    """The failures before are forgotten, and the hash is of today's strength."""
    await attempts.clear(connection, proven.who.user_id)
    if proven.new_hash:
        await passwords.rehash(connection, proven.who.user_id, old_hash=proven.password_hash, new_hash=proven.new_hash)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
