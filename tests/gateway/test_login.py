"""Log-in, refresh and log-out over HTTP, and what attackers try."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from sqlalchemy import text

from api.auth.tokens import key_ring
from moorage.domain.errors import InvalidRequest
from tests.support.gateway import JWT_KEY, PASSWORD, Gateway, bearer, refused

ADA = "ada@example.org"
NOBODY = "nobody@example.org"


async def attempt(gateway: Gateway, email: str = ADA, password: str = PASSWORD) -> httpx.Response:
    return await gateway.http.post("/auth/login", json={"email": email, "password": password})


async def log_in(gateway: Gateway, email: str = ADA, password: str = PASSWORD) -> dict[str, Any]:
    answer = await attempt(gateway, email, password)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def refresh(gateway: Gateway, token: str) -> httpx.Response:
    return await gateway.http.post("/auth/refresh", json={"refresh_token": token})


async def works(gateway: Gateway, token: str) -> bool:
    return (await gateway.get("/session", bearer(token))).status_code == 200


async def audited(gateway: Gateway, operation: str) -> list[dict[str, Any]]:
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT record FROM audit WHERE operation = :operation ORDER BY seq"), {"operation": operation}
        )
        return [json.loads(record) for record in rows.scalars()]


def claims_in(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def signed(claims: dict[str, Any], *, key: str = JWT_KEY, **header: str) -> str:
    return jwt.encode({"alg": "HS256", **header}, claims, OctKey.import_key(key))


def part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


# ---- tokens


async def test_a_log_in_answers_both_tokens_and_how_long_they_live(gateway: Gateway) -> None:
    answer = await attempt(gateway)
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (made["token_type"], made["expires_in"], made["refresh_expires_in"]) == ("Bearer", 900, 7 * 86400)
    assert set(claims_in(made["token"])) == {"iss", "aud", "sub", "sid", "iat", "exp", "jti"}
    assert await works(gateway, made["token"])


async def test_an_access_token_ends_after_its_lifetime(gateway: Gateway) -> None:
    made = await log_in(gateway)
    gateway.clock.ahead_s = 899
    assert await works(gateway, made["token"])
    gateway.clock.ahead_s = 901
    refused(await gateway.get("/session", bearer(made["token"])), 401, "auth-failed")


async def test_an_access_token_does_not_outlive_its_log_in(gateway: Gateway) -> None:
    made = await log_in(gateway)
    gateway.clock.ahead_s = 7 * 86400 - 100
    again = (await refresh(gateway, made["refresh_token"])).json()
    assert again["expires_in"] <= 100
    assert again["refresh_expires_in"] <= 100


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "moorage-refresh"},
        {"aud": "elsewhere"},
        {"aud": None},
        {"iss": "elsewhere"},
        {"exp": int(time.time()) - 1},
        {"exp": "tomorrow"},
        {"exp": None},
        {"sid": None},
        {"sid": "00000000-0000-4000-8000-000000000009"},
        {"sub": "00000000-0000-4000-8000-000000000009"},
    ],
)
async def test_a_token_with_another_claim_is_refused_however_well_signed(
    gateway: Gateway, change: dict[str, Any]
) -> None:
    claims = claims_in((await log_in(gateway))["token"])
    assert await works(gateway, signed(claims, kid="k1"))
    refused(await gateway.get("/session", bearer(signed({**claims, **change}, kid="k1"))), 401, "auth-failed")


async def test_forged_tokens_are_refused(gateway: Gateway) -> None:
    token = (await log_in(gateway))["token"]
    claims = claims_in(token)
    head, body, signature = token.split(".")
    forged = [
        f"{part({'alg': 'none'})}.{body}.",
        f"{part({'alg': 'none', 'kid': 'k1'})}.{body}.{signature}",
        f"{part({'alg': 'None', 'kid': 'k1'})}.{body}.",
        f"{part({'alg': 'HS384', 'kid': 'k1'})}.{body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{part({**claims, 'sub': claims['sid']})}.{signature}",
        signed(claims, key="x" * 32, kid="k1"),
        signed(claims),
        signed(claims, kid="k2"),
        signed(claims, kid="../../dev/null"),
        f"{part({'alg': 'HS256', 'kid': 'k1', 'crit': ['x']})}.{body}.{signature}",
        f"{part({'alg': 'HS256', 'kid': ['k1']})}.{body}.{signature}",
        "a.b.c",
        "...",
    ]
    for one in forged:
        refused(await gateway.get("/session", bearer(one)), 401, "auth-failed")


async def test_neither_kind_of_token_passes_for_the_other(gateway: Gateway) -> None:
    made = await log_in(gateway)
    refused(await gateway.get("/session", bearer(made["refresh_token"])), 401, "auth-failed")
    refused(await refresh(gateway, made["token"]), 401, "auth-failed")


def test_a_ring_keeps_the_order_of_its_keys() -> None:
    assert list(key_ring(f"new:{'n' * 32}, old:{'o' * 32}")) == ["new", "old"]


@pytest.mark.parametrize("keys", ["", "k1", "k1:", f":{'x' * 32}", "k1:short", f"k:{'x' * 32},k:{'y' * 32}"])
def test_a_ring_that_is_malformed_or_can_be_guessed_does_not_start(keys: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        key_ring(keys)
    assert error.value.code == "missing-setting"
    assert "short" not in error.value.message.replace("shorter", "")


# ---- refresh


async def test_each_refresh_token_gets_the_next_pair(gateway: Gateway) -> None:
    made = await log_in(gateway)
    for _ in range(3):
        gateway.clock.ahead_s += 60
        after = (await refresh(gateway, made["refresh_token"])).json()
        assert after["refresh_token"] != made["refresh_token"]
        assert await works(gateway, after["token"])
        made = after


async def test_a_lost_answer_is_given_again_for_ten_seconds(gateway: Gateway) -> None:
    made = await log_in(gateway)
    first = (await refresh(gateway, made["refresh_token"])).json()
    gateway.clock.ahead_s = 9
    again = (await refresh(gateway, made["refresh_token"])).json()
    assert again["refresh_token"] == first["refresh_token"]
    assert (await refresh(gateway, again["refresh_token"])).status_code == 200


async def test_many_refreshes_at_once_agree_on_what_comes_next(gateway: Gateway) -> None:
    made = await log_in(gateway)
    answers = await asyncio.gather(*(refresh(gateway, made["refresh_token"]) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["refresh_token"] for answer in answers}) == 1


async def test_a_refresh_token_that_is_used_again_later_ends_the_log_in(gateway: Gateway) -> None:
    made = await log_in(gateway)
    after = (await refresh(gateway, made["refresh_token"])).json()
    gateway.clock.ahead_s = 11
    refused(await refresh(gateway, made["refresh_token"]), 401, "auth-failed")
    refused(await refresh(gateway, after["refresh_token"]), 401, "auth-failed")
    refused(await gateway.get("/session", bearer(after["token"])), 401, "auth-failed")
    row = next(one for one in await audited(gateway, "auth:refresh") if one["outcome"] == "denied")
    assert (row["outcome"], row["actor"], row["entity_id"]) == ("denied", "", claims_in(made["token"])["sid"])
    assert row["user_id"] == claims_in(made["token"])["sub"]


async def test_a_token_from_before_the_previous_one_ends_the_log_in_at_once(gateway: Gateway) -> None:
    first = await log_in(gateway)
    second = (await refresh(gateway, first["refresh_token"])).json()
    third = (await refresh(gateway, second["refresh_token"])).json()
    refused(await refresh(gateway, first["refresh_token"]), 401, "auth-failed")
    refused(await refresh(gateway, third["refresh_token"]), 401, "auth-failed")


async def test_a_made_up_refresh_token_ends_nothing(gateway: Gateway) -> None:
    made = await log_in(gateway)
    claims = claims_in(made["refresh_token"])
    refused(await refresh(gateway, signed(claims, key="x" * 32, kid="k1")), 401, "auth-failed")
    assert (await refresh(gateway, made["refresh_token"])).status_code == 200


async def test_a_log_in_is_not_prolonged_by_refreshing(gateway: Gateway) -> None:
    made = await log_in(gateway)
    gateway.clock.ahead_s = 6 * 86400
    after = (await refresh(gateway, made["refresh_token"])).json()
    gateway.clock.ahead_s = 7 * 86400 + 1
    refused(await refresh(gateway, after["refresh_token"]), 401, "auth-failed")


async def test_a_deactivated_user_refreshes_nothing(gateway: Gateway) -> None:
    made = await log_in(gateway)
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE users SET status = 'inactive' WHERE email = :ada"), {"ada": ADA})
    refused(await refresh(gateway, made["refresh_token"]), 401, "auth-failed")
    refused(await gateway.get("/session", bearer(made["token"])), 401, "auth-failed")


async def test_the_database_holds_no_token(gateway: Gateway) -> None:
    made = await log_in(gateway)
    async with gateway.engine.connect() as connection:
        logins = (await connection.execute(text("SELECT l::text FROM logins l"))).scalars().all()
        audit = (await connection.execute(text("SELECT record FROM audit"))).scalars().all()
    held = "\n".join([*logins, *audit])
    assert not any(made[name] in held or made[name].split(".")[2] in held for name in ("token", "refresh_token"))
    assert PASSWORD not in held


# ---- the end


async def test_a_log_out_stops_its_tokens_at_once_and_no_others(gateway: Gateway) -> None:
    one, other = await log_in(gateway), await log_in(gateway)
    assert await works(gateway, one["token"])
    answer = await gateway.ask("POST", "/auth/logout", who=bearer(one["token"]))
    assert answer.json() == {"ended": 1}
    refused(await gateway.get("/session", bearer(one["token"])), 401, "auth-failed")
    refused(await refresh(gateway, one["refresh_token"]), 401, "auth-failed")
    assert await works(gateway, other["token"])


async def test_a_log_out_of_all_ends_all_of_ones_own(gateway: Gateway) -> None:
    ada, bob = await log_in(gateway), await log_in(gateway, "bob@example.org")
    await log_in(gateway)
    assert (await gateway.ask("POST", "/auth/logout", {"all": True}, gateway.ada)).json() == {"ended": 2}
    assert not await works(gateway, ada["token"])
    assert await works(gateway, bob["token"])


async def test_who_came_with_a_key_has_no_log_in_to_end(gateway: Gateway) -> None:
    refused(await gateway.ask("POST", "/auth/logout", who=gateway.ada), 403, "no-login")


async def test_the_list_shows_ones_own_log_ins_and_which_is_this_one(gateway: Gateway) -> None:
    await log_in(gateway, "bob@example.org")
    made = await log_in(gateway)
    await gateway.http.post(
        "/auth/login", json={"email": ADA, "password": PASSWORD}, headers={b"User-Agent": b"moor\x7f/1 \xe9"}
    )
    items = (await gateway.get("/auth/logins", bearer(made["token"]))).json()["items"]
    assert [one["current"] for one in items] == [False, True]
    assert items[0]["client"] == "moor/1 "
    assert {"id", "method", "address", "client", "created_at", "refreshed_at", "expires_at", "current"} == set(items[0])


async def test_one_ends_ones_own_log_ins_and_nobody_elses(gateway: Gateway) -> None:
    made = await log_in(gateway)
    login_id = claims_in(made["token"])["sid"]
    refused(await gateway.ask("DELETE", f"/auth/logins/{login_id}", who=gateway.bob), 404, "unknown-login")
    refused(await gateway.ask("DELETE", "/auth/logins/no-id", who=gateway.ada), 404, "unknown-login")
    assert (await gateway.ask("DELETE", f"/auth/logins/{login_id}", who=gateway.ada)).status_code == 204
    refused(await gateway.ask("DELETE", f"/auth/logins/{login_id}", who=gateway.ada), 404, "unknown-login")
    assert not await works(gateway, made["token"])


# ---- guessing


@pytest.mark.parametrize("email", [ADA, NOBODY])
async def test_who_guesses_waits_longer_each_time_and_existence_makes_no_difference(
    gateway: Gateway, email: str
) -> None:
    for _ in range(5):
        refused(await attempt(gateway, email, "wrong"), 401, "auth-failed")
    for wait_s in (1, 2, 4):
        answer = await attempt(gateway, email)
        assert refused(answer, 429, "too-many-attempts")["data"] == {"retry_after_s": wait_s}
        assert answer.headers["retry-after"] == str(wait_s)
        gateway.clock.ahead_s += wait_s + 0.5
        refused(await attempt(gateway, email, "wrong"), 401, "auth-failed")


async def test_answers_for_somebody_and_nobody_are_the_same(gateway: Gateway) -> None:
    for _ in range(7):
        ada, nobody = await attempt(gateway, ADA, "wrong"), await attempt(gateway, NOBODY, "wrong")
        assert (ada.status_code, ada.json(), said(ada)) == (nobody.status_code, nobody.json(), said(nobody))


def said(answer: httpx.Response) -> dict[str, str]:
    """The headers that don't differ from one request to the next anyhow."""
    return {
        name: value for name, value in answer.headers.items() if name not in ("x-request-id", "x-ratelimit-remaining")
    }


async def test_the_right_password_during_a_lock_is_refused_and_makes_it_no_longer(gateway: Gateway) -> None:
    for _ in range(5):
        await attempt(gateway, ADA, "wrong")
    for _ in range(5):
        refused(await attempt(gateway), 429, "too-many-attempts")
    gateway.clock.ahead_s += 1.5
    await log_in(gateway)


async def test_a_lock_is_never_longer_than_a_quarter_of_an_hour(gateway: Gateway) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE users SET failed_logins = 100000"))
    refused(await attempt(gateway, ADA, "wrong"), 401, "auth-failed")
    assert refused(await attempt(gateway), 429, "too-many-attempts")["data"] == {"retry_after_s": 900}


async def test_a_log_in_forgets_the_failures_before(gateway: Gateway) -> None:
    for _ in range(2):
        for _ in range(4):
            refused(await attempt(gateway, ADA, "wrong"), 401, "auth-failed")
        await log_in(gateway)


async def test_of_many_guesses_at_once_no_more_are_checked_than_the_threshold(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(attempt(gateway, ADA, f"wrong {number}") for number in range(12)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7


@pytest.mark.parametrize("email", [ADA, NOBODY])
async def test_another_spelling_of_an_address_is_the_same_address(gateway: Gateway, email: str) -> None:
    for _ in range(5):
        refused(await attempt(gateway, f" {email.upper()} ", "wrong"), 401, "auth-failed")
    refused(await attempt(gateway, email), 429, "too-many-attempts")


async def test_a_lock_of_one_user_is_none_of_another(gateway: Gateway) -> None:
    for _ in range(6):
        await attempt(gateway, ADA, "wrong")
    await log_in(gateway, "bob@example.org")


async def test_log_ins_and_failures_stand_in_the_audit(gateway: Gateway) -> None:
    made = await log_in(gateway)
    await attempt(gateway, ADA, "wrong-secret")
    await attempt(gateway, NOBODY, "wrong-secret")
    await attempt(gateway, "my-password-by-mistake", "wrong-secret")
    rows = await audited(gateway, "auth:login")
    ada = claims_in(made["token"])["sub"]
    assert [(row["outcome"], row["actor"], row["user_id"]) for row in rows] == [
        ("success", ADA, ada), ("denied", "", ada), ("denied", "", ""), ("denied", "", "")
    ]  # fmt: skip
    assert [row["entity_id"] for row in rows[1:]] == [ada, NOBODY, ""]
    assert "wrong-secret" not in json.dumps(rows)
