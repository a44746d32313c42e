"""Passwords over HTTP: their rules, their age, and how their hashes grow stronger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from argon2 import PasswordHasher
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from moorage.db import tenancy
from moorage.passwords import hash_by
from moorage.seal import Seal
from moorage.settings import Settings
from tests.conftest import CHEAP
from tests.gateway.test_login import ADA, attempt, audited, log_in, works
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, PASSWORD, Clock, Gateway, RecordedLives, basic, bearer, refused

NEW = "another long one"


@pytest.fixture
def hashes_as_costly_as_in_production() -> Iterator[None]:
    hash_by(PasswordHasher())
    yield
    hash_by(CHEAP)


async def change(gateway: Gateway, old: str = PASSWORD, new: str = NEW, who: Any = None) -> httpx.Response:
    return await gateway.ask("POST", "/auth/password", {"old": old, "new": new}, who or gateway.ada)


async def change_expired(gateway: Gateway, old: str = PASSWORD, new: str = NEW) -> httpx.Response:
    return await gateway.http.post("/auth/password-expired", json={"email": ADA, "old": old, "new": new})


async def execute(gateway: Gateway, statement: str, **values: Any) -> Any:
    async with gateway.engine.begin() as connection:
        found = await connection.execute(text(statement), {"ada": ADA, **values})
        return found.scalar() if found.returns_rows else None


async def stored(gateway: Gateway) -> str:
    return str(await execute(gateway, "SELECT password_hash FROM users WHERE email = :ada"))


async def test_a_changed_password_counts_from_now_on_and_ends_every_other_log_in(gateway: Gateway) -> None:
    mine, other = await log_in(gateway), await log_in(gateway)
    assert (await change(gateway, who=bearer(mine["token"]))).status_code == 204
    assert await works(gateway, mine["token"])
    assert not await works(gateway, other["token"])
    refused(await attempt(gateway), 401, "auth-failed")
    await log_in(gateway, password=NEW)
    (row,) = await audited(gateway, "auth:password")
    assert (row["actor"], row["outcome"], row["after"]) == (ADA, "success", {"logins_ended": 1})


@pytest.mark.parametrize("new", ["short one", "ada@example.org", "ADA@example.org", PASSWORD, ""])
async def test_a_weak_password_is_refused_and_changes_nothing(gateway: Gateway, new: str) -> None:
    before = await stored(gateway)
    problem = refused(await change(gateway, new=new), 400, "weak-password")
    assert problem["data"] == {"min_length": 10}
    assert await stored(gateway) == before


async def test_who_guesses_the_old_password_is_locked_as_at_log_in(gateway: Gateway) -> None:
    for _ in range(5):
        refused(await change(gateway, old="wrong"), 401, "auth-failed")
    refused(await change(gateway), 429, "too-many-attempts")
    refused(await attempt(gateway), 429, "too-many-attempts")
    outcomes = [row["outcome"] for row in await audited(gateway, "auth:password")]
    assert outcomes == ["denied"] * 5 + ["refused"]


async def test_a_password_that_must_be_changed_is_no_log_in_but_its_change(gateway: Gateway) -> None:
    await execute(gateway, "UPDATE users SET need_password_change = true")
    refused(await attempt(gateway), 403, "password-expired")
    refused(await change_expired(gateway, new=PASSWORD), 400, "weak-password")
    refused(await change_expired(gateway, old="wrong"), 401, "auth-failed")
    assert (await change_expired(gateway)).status_code == 204
    await log_in(gateway, password=NEW)


async def test_a_wrong_password_does_not_learn_that_it_has_expired(gateway: Gateway) -> None:
    await execute(gateway, "UPDATE users SET need_password_change = true")
    refused(await attempt(gateway, password="wrong"), 401, "auth-failed")


async def test_an_expired_password_is_no_failure_and_forgives_none(gateway: Gateway) -> None:
    await execute(gateway, "UPDATE users SET need_password_change = true, failed_logins = 4")
    refused(await attempt(gateway), 403, "password-expired")
    refused(await attempt(gateway), 403, "password-expired")
    refused(await attempt(gateway, password="wrong"), 401, "auth-failed")
    refused(await attempt(gateway), 429, "too-many-attempts")


async def test_a_hash_of_weaker_parameters_is_replaced_at_log_in(
    gateway: Gateway, hashes_as_costly_as_in_production: None
) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    await execute(gateway, "UPDATE users SET password_hash = :weak WHERE email = :ada", weak=weak)
    refused(await attempt(gateway, password="wrong"), 401, "auth-failed")
    assert await stored(gateway) == weak
    await log_in(gateway)
    after = await stored(gateway)
    assert after != weak
    assert not PasswordHasher().check_needs_rehash(after)
    await log_in(gateway)
    assert await stored(gateway) == after


@pytest.mark.parametrize("broken", ["", "pbkdf2:sha256:1000$x$y", "$argon2id$broken", None])
async def test_a_hash_that_is_none_lets_nobody_in(gateway: Gateway, broken: str | None) -> None:
    await execute(gateway, "UPDATE users SET password_hash = :broken WHERE email = :ada", broken=broken)
    refused(await attempt(gateway, password=broken or ""), 401, "auth-failed")


@pytest.fixture
async def ageing(database_url: str, engine: AsyncEngine) -> AsyncIterator[Gateway]:
    """A gateway where passwords live for 30 days."""
    ada = await tenancy.create_user(engine, Seal(KEYS), ADA, PASSWORD)
    clock, lives = Clock(), RecordedLives()
    settings = Settings(
        database_url=database_url,
        payload_keys=KEYS,
        jwt_keys=JWT_KEYS,
        dataplane_key="d" * 32,
        password_max_age_days=30,
    )
    app = build(settings, lives=lives, clock=clock)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        yield Gateway(app, http, lives, engine, basic(*ada), {}, {}, clock)


async def test_an_old_password_must_be_changed_before_the_next_log_in(ageing: Gateway) -> None:
    ageing.clock.ahead_s = 29 * 86400
    await log_in(ageing)
    ageing.clock.ahead_s = 31 * 86400
    refused(await attempt(ageing), 403, "password-expired")
    assert (await change_expired(ageing)).status_code == 204
    await log_in(ageing, password=NEW)
    ageing.clock.ahead_s = 62 * 86400
    refused(await attempt(ageing, password=NEW), 403, "password-expired")
