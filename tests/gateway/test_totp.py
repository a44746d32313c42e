"""One-time codes over HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pyotp
import pytest
from sqlalchemy import text

from moorage.db.passwords import remove_totp
from tests.gateway.test_login import ADA, audited, log_in
from tests.support.gateway import PASSWORD, Gateway, bearer, refused


def code(gateway: Gateway, secret: str, *, steps: int = 0) -> str:
    return pyotp.TOTP(secret).at(int(gateway.clock()), counter_offset=steps)


def another(right: str) -> str:
    return f"{(int(right) + 500_000) % 1_000_000:06d}"


async def attempt(gateway: Gateway, otp: str = "", password: str = PASSWORD) -> httpx.Response:
    return await gateway.http.post("/auth/login", json={"email": ADA, "password": password, "otp": otp})


async def begun(gateway: Gateway) -> str:
    answer = await gateway.ask("POST", "/auth/totp", who=gateway.ada)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["secret"])


async def confirm(gateway: Gateway, otp: str) -> httpx.Response:
    return await gateway.ask("POST", "/auth/totp/confirm", {"otp": otp}, gateway.ada)


@pytest.fixture(autouse=True)
def stopped(gateway: Gateway) -> None:
    """In the middle of a step: no code grows old while a test runs."""
    gateway.clock.stopped_at = time.time() // 30 * 30 + 15


@pytest.fixture
async def secret(gateway: Gateway) -> str:
    """Of ada, who logs in with codes; the one that confirmed it lies three steps back."""
    secret = await begun(gateway)
    gateway.clock.ahead_s -= 90
    assert (await confirm(gateway, code(gateway, secret))).status_code == 204
    gateway.clock.ahead_s += 90
    return secret


async def test_a_log_in_needs_a_code_once_codes_are_confirmed(gateway: Gateway) -> None:
    answer = (await gateway.ask("POST", "/auth/totp", who=gateway.ada)).json()
    assert answer["uri"].startswith("otpauth://totp/Moorage:ada%40example.org?secret=" + answer["secret"])
    await log_in(gateway)
    right = code(gateway, answer["secret"])
    refused(await confirm(gateway, another(right)), 401, "otp-wrong")
    assert (await confirm(gateway, right)).status_code == 204
    refused(await attempt(gateway), 401, "otp-required")
    refused(await attempt(gateway, right), 401, "auth-failed")
    gateway.clock.ahead_s += 60
    assert (await attempt(gateway, code(gateway, answer["secret"]))).status_code == 200


async def test_a_code_counts_once_even_at_the_same_time(gateway: Gateway, secret: str) -> None:
    right = code(gateway, secret)
    answers = await asyncio.gather(*(attempt(gateway, right) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]


@pytest.mark.parametrize(("steps", "status"), [(-2, 401), (-1, 200), (1, 200), (2, 401)])
async def test_a_code_of_the_step_before_or_after_counts_and_no_other(
    gateway: Gateway, secret: str, steps: int, status: int
) -> None:
    assert (await attempt(gateway, code(gateway, secret, steps=steps))).status_code == status


async def test_an_older_code_does_not_count_after_a_newer_one(gateway: Gateway, secret: str) -> None:
    assert (await attempt(gateway, code(gateway, secret, steps=1))).status_code == 200
    refused(await attempt(gateway, code(gateway, secret)), 401, "auth-failed")


async def test_wrong_codes_lock_and_leaving_them_out_does_not_unlock(gateway: Gateway, secret: str) -> None:
    wrong = another(code(gateway, secret))
    for _ in range(5):
        refused(await attempt(gateway), 401, "otp-required")
        refused(await attempt(gateway, wrong), 401, "auth-failed")
    refused(await attempt(gateway), 429, "too-many-attempts")


async def test_a_wrong_password_does_not_learn_that_codes_are_on(gateway: Gateway, secret: str) -> None:
    refused(await attempt(gateway, code(gateway, secret), "wrong"), 401, "auth-failed")
    refused(await attempt(gateway, password="wrong"), 401, "auth-failed")


@pytest.mark.parametrize("otp", ["１２３４５６", "------", "000000\u0660"])
async def test_what_is_no_code_is_refused(gateway: Gateway, secret: str, otp: str) -> None:
    refused(await attempt(gateway, otp), 401, "auth-failed")


async def test_the_secret_is_not_told_again_nor_replaced_while_codes_are_on(gateway: Gateway, secret: str) -> None:
    refused(await gateway.ask("POST", "/auth/totp", who=gateway.ada), 409, "totp-on")
    refused(await confirm(gateway, code(gateway, secret)), 409, "totp-not-started")
    async with gateway.engine.connect() as connection:
        held = (
            await connection.execute(text("SELECT totp_secret FROM users WHERE email = :ada"), {"ada": ADA})
        ).scalar()
        audit = (await connection.execute(text("SELECT string_agg(record, ' ') FROM audit"))).scalar()
    assert secret.encode() not in bytes(held or b"")
    assert secret not in str(audit)


async def test_a_code_ends_codes_and_guesses_lock(gateway: Gateway, secret: str) -> None:
    async def end(otp: str) -> httpx.Response:
        return await gateway.ask("DELETE", "/auth/totp", {"otp": otp}, gateway.ada)

    right = code(gateway, secret)
    for _ in range(5):
        refused(await end(another(right)), 401, "auth-failed")
    refused(await end(right), 429, "too-many-attempts")
    gateway.clock.ahead_s += 2
    assert (await end(code(gateway, secret))).status_code == 204
    await log_in(gateway)
    refused(await end(right), 409, "totp-off")
    assert [row["outcome"] for row in await audited(gateway, "auth:totp-off")] == ["success"]


async def test_an_administrator_takes_codes_away_in_his_own_transaction(gateway: Gateway, secret: str) -> None:
    async with gateway.engine.begin() as connection:
        user_id = (await connection.execute(text("SELECT id FROM users WHERE email = :ada"), {"ada": ADA})).scalar()
        assert await remove_totp(connection, str(user_id))
        assert not await remove_totp(connection, str(user_id))
    await log_in(gateway)


async def test_a_log_in_lists_and_changes_only_what_is_ones_own(gateway: Gateway, secret: str) -> None:
    made: dict[str, Any] = (await attempt(gateway, code(gateway, secret))).json()
    refused(await gateway.ask("DELETE", "/auth/totp", {"otp": "000000"}, gateway.bob), 409, "totp-off")
    assert (await gateway.get("/auth/logins", gateway.bob)).json()["items"] == []
    assert len((await gateway.get("/auth/logins", bearer(made["token"]))).json()["items"]) == 1
