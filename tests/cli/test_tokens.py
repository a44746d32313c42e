"""The command line with a personal access token, and its verbs about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request

from moorage.cli.profile import Profile, load_profile, write_toml
from moorage.domain.errors import InvalidRequest
from tests.support.command import Moor, moor_for, served

TOKEN: dict[str, Any] = {
    "id": "abc123", "name": "ci", "user": "ada@example.org", "permissions": ["session:read"],
    "created_at": "2026-01-01T00:00:00+00:00", "expires_at": "2026-02-01T00:00:00+00:00", "last_used_at": None,
}  # fmt: skip

LISTED = {"items": [TOKEN], "total": 2, "limit": 100, "offset": 0}


@pytest.fixture
def heard() -> list[dict[str, Any]]:
    """What the API was asked, with its headers and body."""
    return []


@pytest.fixture
def moor(heard: list[dict[str, Any]], tmp_path: Path) -> Iterator[Moor]:
    app = FastAPI()

    @app.api_route("/token", methods=["GET", "POST"])
    async def tokens(request: Request) -> dict[str, Any]:
        body = await request.body()
        heard.append({**request.headers, "body": json.loads(body) if body else None})
        return LISTED if request.method == "GET" else TOKEN | {"token": "moor_pat_abc123_secret"}

    @app.delete("/token/{token_id}", status_code=204)
    async def revoke(token_id: str) -> None:
        heard.append({"revoked": token_id})

    with served(app) as address:
        yield moor_for(address, tmp_path)


def test_a_new_token_stands_alone_on_stdout(moor: Moor, heard: list[dict[str, Any]]) -> None:
    outcome = moor("token", "create", "ci", "-p", "session:read", "-p", "*:read", "--expires-in", "7d")
    assert outcome.stdout == "moor_pat_abc123_secret\n"
    assert "session:read" in outcome.stderr
    wish = {"name": "ci", "permissions": ["session:read", "*:read"], "expires_in_s": 604800.0}
    assert heard[0]["body"] == wish


def test_tokens_are_listed_and_revoked(moor: Moor, heard: list[dict[str, Any]]) -> None:
    outcome = moor("token", "ls")
    assert "abc123  ci    ada@example.org" in outcome.stdout
    assert outcome.stderr == "the newest 1 of 2\n"
    assert json.loads(moor("token", "ls", "--json").stdout) == LISTED
    assert moor("token", "rm", "abc123").returncode == 0
    assert heard[-1] == {"revoked": "abc123"}


def test_a_token_is_sent_instead_of_the_key_pair(moor: Moor, heard: list[dict[str, Any]]) -> None:
    moor("token", "ls", MOORAGE_TOKEN="moor_pat_x_y", MOORAGE_ACT_AS="bob@example.org")
    moor("token", "ls")
    assert heard[0]["authorization"] == "Bearer moor_pat_x_y"
    assert heard[0]["x-moorage-act-as"] == "bob@example.org"
    assert heard[1]["authorization"].startswith("Basic ")
    assert "x-moorage-act-as" not in heard[1]


@pytest.fixture
def profile_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ENDPOINT", "ACCESS_KEY", "SECRET_KEY", "TOKEN", "ACT_AS"):
        monkeypatch.delenv(f"MOORAGE_{name}", raising=False)
    monkeypatch.setenv("MOORAGE_CONFIG_DIR", str(tmp_path))
    return tmp_path / "client.toml"


def test_a_token_in_the_file_needs_no_keys(profile_in: Path) -> None:
    write_toml(profile_in, {"endpoint": "http://api/", "token": "t"})
    assert load_profile() == Profile("http://api", token="t")


def test_keys_of_the_environment_stand_before_a_token_in_the_file(
    profile_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toml(profile_in, {"endpoint": "http://api", "token": "t"})
    monkeypatch.setenv("MOORAGE_ACCESS_KEY", "a")
    monkeypatch.setenv("MOORAGE_SECRET_KEY", "s")
    assert load_profile() == Profile("http://api", "a", "s")


def test_without_keys_and_token_it_says_how_to_get_them(profile_in: Path) -> None:
    write_toml(profile_in, {"endpoint": "http://api"})
    with pytest.raises(InvalidRequest, match="no access_key, secret_key known") as refusal:
        load_profile()
    assert "MOORAGE_TOKEN" in refusal.value.hint
