"""Who asks: the one place that checks each way of saying so, for REST, GraphQL and WebSocket alike.

Basic                        access key and secret key
BackendAI, Sorna, Moorage    a signature made with the secret key (moorage.signing)
Bearer moor_pat_…            a personal access token
Bearer …                     a token from log-in
"""

from __future__ import annotations

import base64
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection, Request

from api.auth.acting import acting
from api.auth.heads import Heads, acts_as, heads, raw_target
from api.auth.memory import Known, Memory
from api.limits import is_upload
from moorage import signing
from moorage.db import nonces, principals, tokens
from moorage.db.audit import asking
from moorage.domain.addresses import is_allowed
from moorage.domain.errors import Forbidden, Unauthenticated
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

_WRONG_KEY = "the access key or its secret or signature is wrong"
_LONGEST_KEY = 128


class Verifier(Protocol):
    """Who stands behind a token from log-in."""

    async def by_token(self, token: str) -> Principal:
        """Unauthenticated, unless the token is valid and its user may still come in."""
        ...

    def left_s(self, token: str) -> float:
        """How long a valid token is valid yet."""
        ...


@dataclass(frozen=True, slots=True)
class _Pair:
    owner: Principal | None
    secret: bytes
    use_is_unnoted: bool = False


class Authentication:
    def __init__(
        self,
        engine: AsyncEngine,
        seal: Seal,
        logins: Verifier,
        memory: Memory,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._seal = seal
        self._logins = logins
        self.memory = memory
        self._clock = clock
        # Opened for an unknown access key, so that it takes the same steps as a wrong secret.
        self._nobodys = seal.seal(secrets.token_bytes(40))

    async def principal(self, connection: HTTPConnection) -> Principal:
        """The user who asks, or for whom; Unauthenticated says nothing about what exists."""
        said = heads(connection.scope)
        known = await self._known(said, connection)
        _check_address(known.principal, connection)
        other = acts_as(said)
        return await self._acting(known, other) if other else known.principal

    async def _known(self, said: Heads, connection: HTTPConnection) -> Known:
        authorization = said.get(b"authorization", "")
        found = self.memory.get(authorization)
        if found is not None:
            return found
        scheme, _, credential = authorization.partition(" ")
        if signing.is_signature(scheme):
            return await self._by_signature(signing.read(authorization), said, connection)
        since = self.memory.forgotten
        known, at_most_s = await self._by_words(scheme.lower(), credential.strip())
        self.memory.put(authorization, known, since=since, at_most_s=at_most_s)
        return known

    async def _by_words(self, scheme: str, credential: str) -> tuple[Known, float]:
        """And for how long this may be remembered at most."""
        if scheme == "basic":
            return await self._by_key(credential), float("inf")
        if scheme == "bearer" and credential.startswith(tokens.PREFIX):
            return await self._by_personal_token(credential)
        if scheme == "bearer":
            return Known(await self._logins.by_token(credential)), self._logins.left_s(credential)
        raise Unauthenticated(
            "log in: send an access key (Basic), a token (Bearer) or a signature", hint="POST /auth/login"
        )

    async def _by_key(self, credential: str) -> Known:
        try:
            access_key, _, secret = base64.b64decode(credential, validate=True).decode().partition(":")
        except ValueError:
            raise Unauthenticated(_WRONG_KEY) from None
        pair = await self._pair(access_key)
        return Known(await self._owner(pair, is_right=hmac.compare_digest(pair.secret, secret.encode())))

    async def _by_signature(self, claim: signing.Signature, said: Heads, connection: HTTPConnection) -> Known:
        """The secret is remembered for the key's next request; whoever signs wrongly has it looked up each time."""
        asked = _asked(said, connection)
        signing.check_date(asked.date, self._clock())
        if claim.nonce and is_upload(connection.scope):
            raise Unauthenticated(
                "an upload is not held, so that it can't be signed with its body",
                hint="send a token (Bearer) or the access key (Basic)",
            )
        body = await connection.body() if claim.nonce and isinstance(connection, Request) else b""
        key = (signing.Scheme.MOORAGE, claim.access_key)
        known = self.memory.get(key)
        if known is None or not signing.is_right(claim, asked, known.secret, body=body):
            since = self.memory.forgotten
            pair = await self._pair(claim.access_key)
            is_right = signing.is_right(claim, asked, pair.secret, body=body)
            known = Known(await self._owner(pair, is_right=is_right), secret=pair.secret)
            self.memory.put(key, known, since=since)
        if claim.nonce and not await nonces.take(self._engine, claim.access_key, claim.nonce):
            raise Unauthenticated("this signed request came already", hint="sign each request anew, with its own nonce")
        return known

    async def _pair(self, access_key: str) -> _Pair:
        """An active key pair; of an unknown one nobody is the owner, and nobody knows the secret."""
        if len(access_key) > _LONGEST_KEY or not access_key.isprintable():
            raise Unauthenticated(_WRONG_KEY)
        found = await principals.by_access_key(self._engine, access_key)
        secret = self._seal.open(found[1]["secret"] if found is not None else self._nobodys)
        if found is None:
            return _Pair(None, secret)
        return _Pair(replace(found[0], credential=f"keypair:{access_key}"), secret, found[1]["unnoted"])

    async def _owner(self, pair: _Pair, *, is_right: bool) -> Principal:
        if not is_right or pair.owner is None:
            raise Unauthenticated(_WRONG_KEY)
        if pair.use_is_unnoted:
            await principals.note_use(self._engine, pair.owner.access_key)
        return pair.owner

    async def _by_personal_token(self, token: str) -> tuple[Known, float]:
        found = await tokens.by_token(self._engine, token)
        if found is None:
            raise Unauthenticated("the token is not valid; make a new one", hint="POST /token")
        left_s = (found.expires_at - datetime.now(UTC)).total_seconds()
        return Known(found.principal, permissions=found.permissions), left_s

    async def _acting(self, known: Known, other: str) -> Principal:
        key = (known.principal.user_id, known.principal.credential, other)
        found = self.memory.get(key)
        if found is None:
            since = self.memory.forgotten
            found = Known(await acting(self._engine, known, other))
            self.memory.put(key, found, since=since)
        return found.principal


def _asked(said: Heads, connection: HTTPConnection) -> signing.Asked:
    return signing.Asked(
        connection.scope.get("method", "GET"),
        raw_target(connection.scope),
        said.get(b"date") or said.get(b"x-backendai-date", ""),
        said.get(b"host", ""),
        said.get(b"content-type", ""),
        said.get(b"x-backendai-version", ""),
    )


def _check_address(who: Principal, connection: HTTPConnection) -> None:
    """Whoever may ask from some addresses alone asks from one of them. Checked on every request."""
    if not who.addresses:
        return
    request = asking.get()
    address = (request.address if request is not None else "") or (connection.client.host if connection.client else "")
    if not is_allowed(address, who.addresses):
        raise Forbidden(
            f"{who.email} may not ask from {address or 'an unknown address'}",
            code="address-not-allowed",
            hint="ask an administrator to allow this address",
            data={"address": address},
        )
