"""The answer of a log-in in the browser, heard on loopback."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from moorage.domain.errors import Unavailable

_PATIENCE_S = 300.0
_THANKS = b"<!doctype html><title>Moorage</title><p>Logged in. You may close this page."


class _Listener(HTTPServer):
    """Hears one code at an address that only the API and the browser know."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.path = f"/{secrets.token_urlsafe(24)}"
        self.code = ""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    timeout = 5

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        code = parse_qs(asked.query).get("code", [""])[0]
        if not secrets.compare_digest(asked.path.encode(), self.server.path.encode()) or not code:
            return self.send_error(404)
        self.server.code = code
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(_THANKS)))
        self.end_headers()
        self.wfile.write(_THANKS)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: the address holds the code."""


def code_from_browser(endpoint: str, *, open_at: Callable[[str], None], patience_s: float = _PATIENCE_S) -> str:
    """Sends a browser through the provider and waits for what the API hands to this machine."""
    with _Listener() as listener:
        listener.timeout = 1.0
        open_at(f"{endpoint}/auth/oidc/login?{urlencode({'redirect': listener.address})}")
        deadline = time.monotonic() + patience_s
        while not listener.code and time.monotonic() < deadline:
            listener.handle_request()
        if not listener.code:
            raise Unavailable(f"no answer from the browser within {patience_s:.0f} s", hint="try again")
        return listener.code
