"""A real OpenID Connect provider on loopback: Authlib's own server side, whose user consents to everything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oidc.core import OpenIDCode
from flask import Flask, Response, jsonify
from joserfc.jwk import KeySet, RSAKey
from werkzeug.serving import make_server

CLIENT_ID, CLIENT_SECRET = "moorage-client", "provider-secret"


class Client:
    """The one that is registered."""

    def __init__(self, redirect_uri: str) -> None:
        self._redirect_uri = redirect_uri

    def get_client_id(self) -> str:
        return CLIENT_ID

    def get_default_redirect_uri(self) -> str:
        return self._redirect_uri

    def get_allowed_scope(self, scope: str) -> str:
        return scope

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self._redirect_uri

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == "client_secret_basic"

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type == "authorization_code"


@dataclass
class IssuedCode:
    code: str
    data: dict[str, str]
    challenge: str
    auth_time: int

    @property
    def code_challenge(self) -> str:
        return self.challenge

    @property
    def code_challenge_method(self) -> str:
        return self.data.get("code_challenge_method", "")

    def get_redirect_uri(self) -> str:
        return self.data.get("redirect_uri", "")

    def get_scope(self) -> str:
        return self.data.get("scope", "")

    def get_nonce(self) -> str:
        return self.data.get("nonce", "")

    def get_auth_time(self) -> int:
        return self.auth_time

    def get_acr(self) -> None:
        return None

    def get_amr(self) -> None:
        return None


@dataclass
class Provider:
    """What a test may change: who has logged in there (`claims`, which win over the proper ones), and its keys."""

    redirect_uri: str
    issuer: str = ""
    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "s-1", "email": "eve@example.org"})
    codes: dict[str, IssuedCode] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self, *, published: bool = True) -> None:
        """Signs with a new key from now on; the old one is gone."""
        self.key = RSAKey.generate_key(2048, auto_kid=True)
        if published:
            self.published = KeySet([self.key])

    def app(self) -> Flask:
        app = Flask("provider")
        server = AuthorizationServer(app, query_client=self._client, save_token=lambda token, request: None)
        server.register_grant(self._grant(), [self._id_token(), CodeChallenge(required=True)])

        @app.get("/.well-known/openid-configuration")
        def discovery() -> Response:
            self.asked.append("discovery")
            endpoints = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
            return jsonify({"issuer": self.issuer, **{name: f"{self.issuer}/{at}" for name, at in endpoints.items()}})

        @app.get("/jwks")
        def jwks() -> Response:
            self.asked.append("jwks")
            return jsonify(self.published.as_dict(private=False))

        @app.get("/authorize")
        def authorize() -> Any:
            grant = server.get_consent_grant(end_user="the user")
            return server.create_authorization_response(grant_user="the user", grant=grant)

        @app.post("/token")
        def token() -> Any:
            return server.create_token_response()

        return app

    def _client(self, client_id: str) -> Client | None:
        return Client(self.redirect_uri) if client_id == CLIENT_ID else None

    def _grant(self) -> type[AuthorizationCodeGrant]:
        provider = self

        class Grant(AuthorizationCodeGrant):  # type: ignore[misc]
            TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic",)

            def save_authorization_code(self, code: str, request: Any) -> None:
                data = dict(request.payload.data)
                provider.codes[code] = IssuedCode(code, data, data.get("code_challenge", ""), int(time.time()))

            def query_authorization_code(self, code: str, client: Client) -> IssuedCode | None:
                return provider.codes.get(code)

            def delete_authorization_code(self, authorization_code: IssuedCode) -> None:
                del provider.codes[authorization_code.code]

            def authenticate_user(self, authorization_code: IssuedCode) -> str:
                return "the user"

        return Grant

    def _id_token(self) -> OpenIDCode:
        provider = self

        class IdToken(OpenIDCode):  # type: ignore[misc]
            def exists_nonce(self, nonce: str, request: Any) -> bool:
                return any(one.get_nonce() == nonce for one in provider.codes.values())

            def resolve_client_private_key(self, client: Client) -> RSAKey:
                return provider.key

            def get_encode_header(self, client: Client) -> dict[str, str]:
                return {"alg": "RS256", "kid": str(provider.key.kid)}

            def get_client_claims(self, client: Client) -> dict[str, Any]:
                return {"iss": provider.issuer}

            def generate_user_info(self, user: str, scope: str) -> dict[str, Any]:
                return provider.claims

        return IdToken(require_nonce=True)


@contextmanager
def running_provider(redirect_uri: str) -> Iterator[Provider]:
    """The provider on a free port of this machine."""
    provider = Provider(redirect_uri)
    before = os.environ.get("AUTHLIB_INSECURE_TRANSPORT")
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"  # no TLS on loopback
    server = make_server("127.0.0.1", 0, provider.app(), threaded=True)
    provider.issuer = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        if before is None:
            del os.environ["AUTHLIB_INSECURE_TRANSPORT"]
