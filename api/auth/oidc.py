"""OpenID Connect: authorization code with PKCE at one provider, whose word is checked by its published keys."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from api.auth.claims import Claims, claims_of
from api.auth.tokens import Clock
from moorage.domain.errors import InvalidRequest, Unauthenticated, Unavailable
from moorage.settings import Settings

with warnings.catch_warnings(record=True):  # Authlib asks for the successor of httpx
    from authlib.integrations.base_client import OAuthError
    from authlib.integrations.httpx_client import AsyncOAuth2Client

LOOPBACK = frozenset({"127.0.0.1", "::1"})
_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
_TIMEOUT = httpx.Timeout(10.0, connect=5.0)
_DISCOVERED_S = 3600.0
# Asked for keys that nobody has, the provider is not asked more often than this.
_KEYS_S = 10.0
_LEEWAY_S = 60


@dataclass(frozen=True, slots=True)
class Begun:
    """What has to come back: the provider repeats `state` and `nonce`, and gets `verifier` for its code."""

    state: str
    nonce: str
    verifier: str


class Provider:
    def __init__(self, settings: Settings, clock: Clock) -> None:
        self.rules: Claims = claims_of(settings.oidc_claims)
        self.redirect_uri = settings.oidc_redirect_uri
        self.link_by_email = settings.oidc_link_by_email
        self._issuer = settings.oidc_issuer
        self._client_id = settings.oidc_client_id
        self._secret = settings.oidc_client_secret
        self._scopes = settings.oidc_scopes
        self._clock = clock
        self._document: dict[str, Any] = {}
        self._discovered_at = 0.0
        self._keys: KeySet | None = None
        self._keys_at = 0.0

    async def begin(self) -> tuple[str, Begun]:
        """(where the browser goes, what has to come back)."""
        begun = Begun(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        async with self._client() as client:
            document = await self._discover(client)
            url, _ = client.create_authorization_url(
                document["authorization_endpoint"], state=begun.state, nonce=begun.nonce, code_verifier=begun.verifier
            )
        return str(url), begun

    async def claims(self, code: str, begun: Begun) -> Mapping[str, Any]:
        """What the provider says about whoever came back with this code, verified."""
        async with self._client() as client:
            document = await self._discover(client)
            try:
                answer = await client.fetch_token(
                    document["token_endpoint"], grant_type="authorization_code", code=code, code_verifier=begun.verifier
                )
            except OAuthError as error:
                raise _refused(f"the provider did not accept the code ({str(error.error)[:80]})") from None
            token = answer.get("id_token")
            if not isinstance(token, str):
                raise _refused("the provider sent no ID token; is openid among the scopes?")
            return self._checked(await self._decoded(client, token), begun.nonce)

    async def _decoded(self, client: AsyncOAuth2Client, token: str) -> Mapping[str, Any]:
        """The claims, signed with one of the provider's keys; they are fetched again for one that is new."""
        keys = self._keys or await self._fetch_keys(client)
        try:
            try:
                return jwt.decode(token, keys, algorithms=_ALGORITHMS).claims
            except InvalidKeyIdError:
                if self._clock() - self._keys_at < _KEYS_S:
                    raise
                return jwt.decode(token, await self._fetch_keys(client), algorithms=_ALGORITHMS).claims
        except (JoseError, ValueError):
            raise _refused("the provider's ID token is not signed with one of its keys") from None

    def _checked(self, claims: Mapping[str, Any], nonce: str) -> Mapping[str, Any]:
        now, audience = self._clock(), claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self._issuer:
            raise _refused("the ID token is of another issuer")
        if self._client_id not in audiences or claims.get("azp", self._client_id) != self._client_id:
            raise _refused("the ID token is for somebody else")
        if not isinstance(claims.get("nonce"), str) or not secrets.compare_digest(claims["nonce"], nonce):
            raise _refused("the ID token is of another log-in")
        expires_at = claims.get("exp")
        if not isinstance(expires_at, (int, float)) or expires_at + _LEEWAY_S <= now:
            raise _refused("the ID token has expired")
        if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
            raise _refused("the ID token names nobody")
        return claims

    async def _discover(self, client: AsyncOAuth2Client) -> dict[str, Any]:
        if self._document and self._clock() - self._discovered_at < _DISCOVERED_S:
            return self._document
        document = await _get(client, f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        endpoints = [document.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        if document.get("issuer") != self._issuer or not all(map(_is_safe, endpoints)):
            raise Unavailable("the provider's discovery document is of another issuer or names no safe endpoints")
        self._document, self._discovered_at = document, self._clock()
        return document

    async def _fetch_keys(self, client: AsyncOAuth2Client) -> KeySet:
        document = await _get(client, (await self._discover(client))["jwks_uri"])
        try:
            self._keys = KeySet.import_key_set(document)  # type: ignore[arg-type]
        except (JoseError, ValueError, KeyError, TypeError):
            raise Unavailable("the provider's keys can't be read") from None
        self._keys_at = self._clock()
        return self._keys

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncOAuth2Client]:
        client = AsyncOAuth2Client(
            self._client_id,
            self._secret or None,
            scope=self._scopes,
            redirect_uri=self.redirect_uri,
            code_challenge_method="S256",
            timeout=_TIMEOUT,
            trust_env=False,
        )
        try:
            async with client:
                yield client
        except httpx.HTTPError as error:
            raise Unavailable(f"the identity provider does not answer ({type(error).__name__})") from None


def provider_of(settings: Settings, clock: Clock) -> Provider | None:
    """The provider of the settings, None without; refuses half of them."""
    if not settings.oidc_issuer:
        return None
    missing = [name for name in ("oidc_client_id", "oidc_redirect_uri") if not getattr(settings, name)]
    if missing:
        raise InvalidRequest(f"MOORAGE_OIDC_ISSUER needs MOORAGE_{missing[0].upper()}, too", code="missing-setting")
    for name in ("oidc_issuer", "oidc_redirect_uri"):
        if not _is_safe(getattr(settings, name)):
            raise InvalidRequest(f"MOORAGE_{name.upper()} must begin with https://", code="missing-setting")
    return Provider(settings, clock)


def _is_safe(url: Any) -> bool:
    """https, or within this machine."""
    try:
        parts = urlsplit(str(url))
        return bool(parts.scheme == "https" and parts.hostname) or (
            parts.scheme == "http" and parts.hostname in LOOPBACK
        )
    except ValueError:
        return False


async def _get(client: AsyncOAuth2Client, url: str) -> dict[str, Any]:
    response = await client.request("GET", url, withhold_token=True)
    try:
        document = response.json()
    except ValueError:
        document = None
    if response.status_code != 200 or not isinstance(document, dict):
        raise Unavailable(f"the identity provider answered {response.status_code} without what was asked")
    return document


def _refused(words: str) -> Unauthenticated:
    return Unauthenticated(words, code="oidc-refused", hint="begin again at GET /auth/oidc/login")
