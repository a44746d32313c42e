"""`moor login` and what stays on disk, against a real gateway on a real socket."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from moorage.cli.profile import read_toml
from moorage.db import tenancy
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.command import served
from tests.support.gateway import JWT_KEYS, PASSWORD, RecordedLives
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, running_provider

ADA = "ada@example.org"
NEW = "another long one"


class Moor:
    """The command in a folder of its own, without any key."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint, self.file = endpoint, folder / "client.toml"
        outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        self.env = outer | {"MOORAGE_CONFIG_DIR": str(folder)}

    def begin(self, *arguments: str, **changed: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "moorage.cli.main", *arguments],
            env=self.env | changed, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    async def __call__(self, *arguments: str, said: str = "", fails: bool = False, **changed: str) -> str:
        """What it wrote."""
        process = self.begin(*arguments, **changed)
        out, err = await asyncio.to_thread(process.communicate, said, 60)
        assert (process.returncode != 0) == fails, err
        return out + err

    async def log_in(self, password: str = PASSWORD, *more: str, fails: bool = False) -> str:
        said = "".join(f"{line}\n" for line in (password, *more))
        arguments = ("login", "--endpoint", self.endpoint, "--email", ADA, "--password-stdin")
        return await self(*arguments, said=said, fails=fails)


@pytest.fixture
async def moor(database_url: str, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Moor]:
    await tenancy.create_user(engine, Seal(KEYS), ADA, PASSWORD)
    settings = Settings(database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32)
    with served(build(settings, lives=RecordedLives())) as endpoint:
        yield Moor(endpoint, tmp_path)


async def test_a_log_in_is_kept_for_its_owner_alone_and_used_by_every_verb(moor: Moor) -> None:
    assert "logged in" in await moor.log_in()
    assert moor.file.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in moor.file.read_text()
    assert "STATUS" in await moor("ps")
    assert "logged out (1 ended)" in await moor("logout")
    assert read_toml(moor.file) == {"endpoint": moor.endpoint}
    assert "moor login" in await moor("ps", fails=True)


async def test_the_client_refreshes_by_itself(moor: Moor) -> None:
    await moor.log_in()
    stored = read_toml(moor.file)
    expired = moor.file.read_text().replace(stored["access_expires_at"], "0")
    moor.file.write_text(expired)
    await asyncio.gather(*(moor("ps") for _ in range(2)))
    after = read_toml(moor.file)
    assert after["refresh_token"] != stored["refresh_token"]
    assert float(after["access_expires_at"]) > 0


async def test_a_token_that_is_refused_early_is_renewed(moor: Moor) -> None:
    await moor.log_in()
    moor.file.write_text(moor.file.read_text().replace(read_toml(moor.file)["access_token"], "spoilt"))
    await moor("ps")


async def test_a_log_in_that_was_ended_elsewhere_is_forgotten(moor: Moor, engine: AsyncEngine) -> None:
    await moor.log_in()
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE logins SET revoked_at = now()"))
    await moor("ps", fails=True)
    assert "refresh_token" not in read_toml(moor.file)
    await moor("logout", fails=True)


async def test_tokens_go_to_no_other_address(moor: Moor) -> None:
    await moor.log_in()
    assert "no access_key" in await moor("ps", fails=True, MOORAGE_ENDPOINT="http://127.0.0.1:9")


async def test_a_wrong_password_keeps_nothing(moor: Moor) -> None:
    assert "e-mail or password is wrong" in await moor.log_in("wrong", fails=True)
    assert not moor.file.exists()
    assert "a line was wanted" in await moor("login", "--endpoint", moor.endpoint, "--password-stdin", fails=True)


async def test_a_password_is_changed_also_when_it_has_expired(moor: Moor, engine: AsyncEngine) -> None:
    await moor.log_in()
    await moor("password", "--password-stdin", said=f"{PASSWORD}\n{NEW}\nother\n", fails=True)
    await moor("password", "--password-stdin", said=f"{PASSWORD}\n{NEW}\n{NEW}\n")
    await moor("ps")
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE users SET need_password_change = true"))
    assert "has to be changed" in await moor.log_in(NEW, PASSWORD, PASSWORD)


async def test_one_time_codes_are_turned_on_asked_for_and_turned_off(moor: Moor) -> None:
    await moor.log_in()
    process = moor.begin("totp", "on", "--password-stdin")
    assert process.stdin is not None
    assert process.stdout is not None
    line = await asyncio.to_thread(process.stdout.readline)
    secret = line.split()[1]
    totp = pyotp.TOTP(secret)
    out, err = await asyncio.to_thread(process.communicate, f"{totp.at(_now(), counter_offset=-1)}\n", 60)
    assert process.returncode == 0, out + err
    assert "logged in" in await moor.log_in(PASSWORD, totp.at(_now()))
    await moor("totp", "off", "--password-stdin", said=f"{totp.at(_now(), counter_offset=1)}\n")
    await moor.log_in()


def _now() -> int:
    return int(time.time())


@pytest.fixture
async def with_provider(database_url: str, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Moor]:
    """An API whose users log in at a provider."""
    settings: dict[str, Any] = {
        "database_url": database_url, "payload_keys": KEYS, "jwt_keys": JWT_KEYS, "dataplane_key": "d" * 32,
        "oidc_client_id": CLIENT_ID, "oidc_client_secret": CLIENT_SECRET,
    }  # fmt: skip
    callback = "http://127.0.0.1:1/auth/oidc/callback"
    with running_provider(callback) as provider:
        settings |= {"oidc_issuer": provider.issuer, "oidc_redirect_uri": callback}
        with served(build(Settings(**settings), lives=RecordedLives())) as endpoint:
            yield Moor(endpoint, tmp_path)


async def test_a_browser_logs_in_at_the_provider_for_the_terminal(with_provider: Moor) -> None:
    moor = with_provider
    process = moor.begin("login", "--endpoint", moor.endpoint, "--oidc", "--no-browser")
    assert process.stderr is not None
    said = await asyncio.to_thread(process.stderr.readline)
    await _browse(moor, re.sub(r"^open ", "", said.strip()))
    out, err = await asyncio.to_thread(process.communicate, None, 60)
    assert process.returncode == 0, out + err
    await moor("ps")


async def _browse(moor: Moor, address: str) -> None:
    """Follows each redirect, as a browser does; the callback's registered address is that of the API."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        there = (await browser.get(address)).headers["location"]
        back = (await browser.get(there)).headers["location"]
        query = back.split("?")[1]
        handed = (await browser.get(f"{moor.endpoint}/auth/oidc/callback?{query}")).headers["location"]
        assert (await browser.get(handed.split("?")[0])).status_code == 404
        assert "Logged in" in (await browser.get(handed)).text
