"""The log-in that `moor login` began: its tokens in client.toml, and new ones when they have expired."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import httpx

from moorage.cli.profile import profile_path, read_toml, write_toml

_NAMES = ("login_endpoint", "access_token", "access_expires_at", "refresh_token")
# Asked for a little early: the clocks of two machines differ, and an answer takes its time.
_EARLY_S = 30.0


class SignedIn(httpx.Auth):
    """Signs requests with the access token. Processes that refresh at the same time get the same next pair."""

    requires_response_body = True

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        stored = read_toml(profile_path())
        if float(stored.get("access_expires_at", "0")) - _EARLY_S < time.time():
            stored = yield from self._refreshed(stored)
        request.headers["Authorization"] = f"Bearer {stored.get('access_token', '')}"
        response = yield request
        if response.status_code == 401 and stored.get("refresh_token"):
            stored = yield from self._refreshed(stored)
            request.headers["Authorization"] = f"Bearer {stored.get('access_token', '')}"
            yield request

    def _refreshed(self, stored: dict[str, str]) -> Generator[httpx.Request, httpx.Response, dict[str, str]]:
        """What is stored afterwards; a log-in that has ended is forgotten."""
        now = read_toml(profile_path())
        if now.get("refresh_token") != stored.get("refresh_token"):
            return now  # another process did it meanwhile
        body = {"refresh_token": stored.get("refresh_token", "")}
        answer = yield httpx.Request("POST", f"{self._endpoint}/auth/refresh", json=body)
        if answer.status_code == 401:
            forget()
            return {}
        return keep(self._endpoint, answer.json()) if answer.status_code == 200 else stored


def keep(endpoint: str, answer: dict[str, Any]) -> dict[str, str]:
    """Stores what a log-in answered, beside what else is in client.toml (0600)."""
    kept = {
        "login_endpoint": endpoint,
        "access_token": str(answer["token"]),
        "access_expires_at": str(time.time() + float(answer["expires_in"])),
        "refresh_token": str(answer["refresh_token"]),
    }
    values = read_toml(profile_path()) | kept
    values.setdefault("endpoint", endpoint)
    write_toml(profile_path(), values)
    return values


def forget() -> None:
    """Only the log-in; keys and addresses stay."""
    stored = read_toml(profile_path())
    if any(name in stored for name in _NAMES):
        write_toml(profile_path(), {name: value for name, value in stored.items() if name not in _NAMES})
