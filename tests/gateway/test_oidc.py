"""Log-in through a real identity provider on loopback, and what may go wrong on the way."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from moorage.domain.errors import InvalidRequest
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, Clock, Gateway, RecordedLives, bearer, refused
from tests.support.oidc_provider import CLIENT_ID, CLIENT_SECRET, Provider, running_provider

CALLBACK = "http://127.0.0.1:1/auth/oidc/callback"
COOKIE = "moorage_oidc"
BACK = "http://127.0.0.1:5555/here?x=1"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with running_provider(CALLBACK) as provider:
        yield provider


@asynccontextmanager
async def gateway_of(provider: Provider, database_url: str, engine: AsyncEngine, **more: Any) -> AsyncIterator[Gateway]:
    settings = Settings(
        database_url=database_url,
        payload_keys=KEYS,
        jwt_keys=JWT_KEYS,
        dataplane_key="d" * 32,
        oidc_issuer=provider.issuer,
        oidc_client_id=CLIENT_ID,
        oidc_client_secret=CLIENT_SECRET,
        oidc_redirect_uri=CALLBACK,
        **more,
    )
    clock, lives = Clock(), RecordedLives()
    app = build(settings, lives=lives, clock=clock)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:1") as http,
    ):
        yield Gateway(app, http, lives, engine, {}, {}, {}, clock)


@pytest.fixture
async def gateway(provider: Provider, database_url: str, engine: AsyncEngine) -> AsyncIterator[Gateway]:
    async with gateway_of(provider, database_url, engine) as gateway:
        yield gateway


async def begun(gateway: Gateway, redirect: str = "") -> str:
    """The address at the provider; the cookie stays in the client."""
    answer = await gateway.http.get("/auth/oidc/login", params={"redirect": redirect} if redirect else {})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


async def consented(where: str) -> str:
    """The way back, as the provider's redirect says."""
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.get(where)
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


async def log_in(gateway: Gateway) -> httpx.Response:
    return await gateway.http.get(await consented(await begun(gateway)))


async def user(gateway: Gateway, email: str = "eve@example.org") -> dict[str, Any]:
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT u.*, ARRAY(SELECT p.name FROM memberships m JOIN projects p ON p.id = m.project_id"
                " WHERE m.user_id = u.id ORDER BY 1) AS projects FROM users u WHERE email = :email"
            ),
            {"email": email},
        )
        return dict(rows.mappings().one())


async def execute(gateway: Gateway, *statements: str) -> None:
    async with gateway.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


# ---- the whole way


async def test_a_user_of_the_provider_logs_in_and_is_made_at_the_first_time(
    gateway: Gateway, provider: Provider
) -> None:
    provider.claims |= {"name": "Eve", "email_verified": True}
    answer = await log_in(gateway)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (await gateway.get("/session", bearer(made["token"]))).status_code == 200
    assert (await gateway.get("/auth/logins", bearer(made["token"]))).json()["items"][0]["method"] == "oidc"
    found = await user(gateway)
    assert (found["role"], found["domain"], found["projects"], found["name"]) == ("user", "default", ["default"], "Eve")
    assert (found["oidc_subject"], found["password_hash"]) == ("s-1", None)
    again = await gateway.http.post("/auth/refresh", json={"refresh_token": made["refresh_token"]})
    assert again.status_code == 200


async def test_the_same_subject_is_the_same_user_whatever_its_address(gateway: Gateway, provider: Provider) -> None:
    await log_in(gateway)
    provider.claims["email"] = "other@example.org"
    assert (await log_in(gateway)).status_code == 200
    assert (await user(gateway))["oidc_subject"] == "s-1"
    assert provider.asked.count("discovery") == 1


async def test_the_way_there_carries_a_challenge_a_state_and_a_nonce(gateway: Gateway) -> None:
    answer = await gateway.http.get("/auth/oidc/login")
    asked = parse_qs(urlsplit(answer.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert all(len(asked[name][0]) >= 43 for name in ("code_challenge", "state", "nonce"))
    assert (asked["scope"], asked["redirect_uri"]) == (["openid email profile"], [CALLBACK])
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/auth/oidc", "Max-Age=600"))
    assert asked["state"][0] not in cookie


async def test_a_password_does_not_log_in_a_user_of_the_provider(gateway: Gateway) -> None:
    await log_in(gateway)
    answer = await gateway.http.post("/auth/login", json={"email": "eve@example.org", "password": ""})
    refused(answer, 401, "auth-failed")


async def test_without_a_provider_the_routes_say_so(database_url: str, engine: AsyncEngine) -> None:
    async with gateway_of(Provider(CALLBACK), database_url, engine) as gateway:
        refused(await gateway.http.get("/auth/oidc/login"), 404, "oidc-not-configured")
        refused(await gateway.http.get("/auth/oidc/callback"), 404, "oidc-not-configured")
        refused(await gateway.http.post("/auth/oidc/exchange", json={"code": "x"}), 404, "oidc-not-configured")


async def test_a_provider_that_is_away_is_told_so(provider: Provider, database_url: str, engine: AsyncEngine) -> None:
    provider.issuer = "http://127.0.0.1:9"
    async with gateway_of(provider, database_url, engine) as gateway:
        refused(await gateway.http.get("/auth/oidc/login"), 503, "unavailable")


# ---- answers that are not what was begun


async def test_another_state_is_refused(gateway: Gateway) -> None:
    back = await consented(await begun(gateway))
    query = parse_qs(urlsplit(back).query)
    params = {"code": query["code"][0], "state": secrets.token_urlsafe(32)}
    refused(await gateway.http.get("/auth/oidc/callback", params=params), 401, "oidc-refused")


async def test_an_answer_in_another_browser_is_refused(gateway: Gateway) -> None:
    back = await consented(await begun(gateway))
    gateway.http.cookies.clear()
    refused(await gateway.http.get(back), 401, "oidc-refused")
    gateway.http.cookies.set(COOKIE, base64.urlsafe_b64encode(b"k1:" + b"x" * 60).decode())
    refused(await gateway.http.get(back), 401, "oidc-refused")


async def test_an_answer_that_comes_too_late_is_refused(gateway: Gateway) -> None:
    back = await consented(await begun(gateway))
    gateway.clock.ahead_s = 601
    refused(await gateway.http.get(back), 401, "oidc-refused")


async def test_a_replayed_answer_is_refused_even_if_the_provider_forgets(gateway: Gateway, provider: Provider) -> None:
    back = await consented(await begun(gateway))
    cookie, codes = gateway.http.cookies[COOKIE], dict(provider.codes)
    assert (await gateway.http.get(back)).status_code == 200
    assert COOKIE not in gateway.http.cookies
    gateway.http.cookies.set(COOKIE, cookie)
    refused(await gateway.http.get(back), 401, "oidc-refused")
    provider.codes.update(codes)
    refused(await gateway.http.get(back), 401, "auth-failed")


async def test_a_code_without_its_verifier_is_worth_nothing(gateway: Gateway) -> None:
    back = await consented(await begun(gateway))
    seal = Seal(KEYS)
    kept = json.loads(seal.open(base64.urlsafe_b64decode(gateway.http.cookies[COOKIE])))
    kept["oidc"]["verifier"] = secrets.token_urlsafe(48)
    gateway.http.cookies.clear()
    gateway.http.cookies.set(COOKIE, base64.urlsafe_b64encode(seal.seal(json.dumps(kept).encode())).decode())
    refused(await gateway.http.get(back), 401, "oidc-refused")


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [CLIENT_ID, "another"], "azp": "another"},
        {"iss": "http://127.0.0.1:9"},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"sub": ""},
        {"sub": 7},
    ],
)
async def test_an_id_token_with_another_claim_is_refused(
    gateway: Gateway, provider: Provider, claims: dict[str, Any]
) -> None:
    provider.claims |= claims
    refused(await log_in(gateway), 401, "oidc-refused")
    async with gateway.engine.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM users"))).scalar() == 0
        outcomes = await connection.execute(text("SELECT outcome FROM audit WHERE operation = 'auth:login'"))
        assert list(outcomes.scalars()) == ["denied"]


async def test_a_key_that_the_provider_rotated_in_is_fetched(gateway: Gateway, provider: Provider) -> None:
    assert (await log_in(gateway)).status_code == 200
    provider.rotate()
    gateway.clock.ahead_s = 11
    assert (await log_in(gateway)).status_code == 200
    assert provider.asked.count("jwks") == 2


async def test_a_key_that_the_provider_does_not_publish_is_refused(gateway: Gateway, provider: Provider) -> None:
    provider.rotate(published=False)
    for _ in range(3):
        refused(await log_in(gateway), 401, "oidc-refused")
    assert provider.asked.count("jwks") == 1


async def test_a_refusal_of_the_provider_is_said(gateway: Gateway) -> None:
    state = parse_qs(urlsplit(await begun(gateway)).query)["state"][0]
    answer = await gateway.http.get("/auth/oidc/callback", params={"state": state, "error": "access_denied"})
    assert "access_denied" in refused(answer, 401, "oidc-refused")["title"]


# ---- a client that listens on loopback


async def test_a_loopback_client_gets_a_code_that_works_once(gateway: Gateway) -> None:
    answer = await gateway.http.get(await consented(await begun(gateway, BACK)))
    assert answer.status_code == 303
    where = urlsplit(answer.headers["location"])
    query = parse_qs(where.query)
    assert (where.netloc, where.path, query["x"]) == ("127.0.0.1:5555", "/here", ["1"])
    code = {"code": query["code"][0]}
    refused(await gateway.get("/session", bearer(code["code"])), 401, "auth-failed")
    made = (await gateway.http.post("/auth/oidc/exchange", json=code)).json()
    assert (await gateway.get("/session", bearer(made["token"]))).status_code == 200
    refused(await gateway.http.post("/auth/oidc/exchange", json=code), 401, "auth-failed")
    refused(await gateway.get("/session", bearer(made["token"])), 401, "auth-failed")


async def test_a_code_of_a_loopback_client_is_for_a_minute(gateway: Gateway) -> None:
    answer = await gateway.http.get(await consented(await begun(gateway, BACK)))
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    gateway.clock.ahead_s = 61
    refused(await gateway.http.post("/auth/oidc/exchange", json={"code": code}), 401, "auth-failed")


@pytest.mark.parametrize(
    "redirect",
    [
        "https://evil.example/",
        "http://evil.example:80/",
        "http://127.0.0.1/",
        "http://127.0.0.1:80@evil.example:80/",
        "http://127.0.0.1.evil.example:80/",
        "http://127.0.0.1:99999/",
        "http://localhost:80/",
        "http://127.0.0.1:80/#x",
        "http://127.0.0.1:80/\r\nX: y",
        "javascript:alert(1)",
        "//127.0.0.1:80/",
        "http://[::1",
    ],
)
async def test_codes_go_nowhere_but_to_loopback(gateway: Gateway, redirect: str) -> None:
    answer = await gateway.http.get("/auth/oidc/login", params={"redirect": redirect})
    refused(answer, 400, "invalid-redirect")


# ---- what claims mean


RULES = json.dumps(
    {
        "domain": {"claim": "org", "values": {"Acme Inc": "acme"}},
        "projects": {"claim": "realm.groups", "values": {"g-ml": "ml", "g-web": "web", "g-gone": "gone"}},
        "roles": {"claim": "realm.groups", "values": {"g-admins": "admin", "g-root": "superadmin"}},
    }
)
TENANTS = (
    "INSERT INTO domains (name) VALUES ('acme')",
    "INSERT INTO projects (id, domain, name) VALUES (gen_random_uuid(), 'acme', 'default'),"
    " (gen_random_uuid(), 'acme', 'ml'), (gen_random_uuid(), 'acme', 'web')",
)


async def test_claims_give_domain_projects_and_rank_and_take_them_again(
    provider: Provider, database_url: str, engine: AsyncEngine
) -> None:
    async with gateway_of(provider, database_url, engine, oidc_claims=RULES) as gateway:
        await execute(gateway, *TENANTS)
        groups = ["g-ml", "g-web", "g-gone", "g-admins", "superadmin", 7]
        provider.claims |= {"org": "Acme Inc", "realm": {"groups": groups}}
        assert (await log_in(gateway)).status_code == 200
        found = await user(gateway)
        assert (found["domain"], found["projects"], found["role"]) == ("acme", ["ml", "web"], "admin")
        provider.claims["realm"] = {"groups": ["g-web"]}
        assert (await log_in(gateway)).status_code == 200
        found = await user(gateway)
        assert (found["projects"], found["role"]) == (["web"], "user")
        provider.claims |= {"org": "elsewhere", "realm": {"groups": "g-root"}}
        assert (await log_in(gateway)).status_code == 200
        found = await user(gateway)
        assert (found["domain"], found["projects"], found["role"]) == ("default", ["default"], "superadmin")


async def test_a_claim_that_no_rule_names_gives_no_rank(gateway: Gateway, provider: Provider) -> None:
    provider.claims |= {"role": "superadmin", "roles": ["superadmin"], "groups": ["superadmin"]}
    assert (await log_in(gateway)).status_code == 200
    assert (await user(gateway))["role"] == "user"


async def test_what_the_provider_does_not_decide_stays(gateway: Gateway) -> None:
    await log_in(gateway)
    await execute(gateway, "UPDATE users SET role = 'monitor', name = 'Eva'", "DELETE FROM memberships")
    assert (await log_in(gateway)).status_code == 200
    found = await user(gateway)
    assert (found["role"], found["name"], found["projects"]) == ("monitor", "Eva", [])


@pytest.mark.parametrize(
    ("claims", "link", "status"),
    [
        ({"email_verified": True}, True, 200),
        ({"email_verified": True, "email": "EVE@example.org"}, True, 200),
        ({"email_verified": True}, False, 409),
        ({}, True, 409),
        ({"email_verified": "true"}, True, 409),
    ],
)
async def test_a_local_user_is_linked_only_by_a_verified_address_and_if_allowed(
    provider: Provider, database_url: str, engine: AsyncEngine, claims: dict[str, Any], link: bool, status: int
) -> None:
    async with gateway_of(provider, database_url, engine, oidc_link_by_email=link) as gateway:
        await execute(
            gateway,
            "INSERT INTO users (id, email, role, domain, project_id) SELECT gen_random_uuid(), 'eve@example.org',"
            " 'user', 'default', id FROM projects WHERE name = 'default'",
        )
        provider.claims |= claims
        assert (await log_in(gateway)).status_code == status
        assert (await user(gateway))["oidc_subject"] == ("s-1" if status == 200 else None)


@pytest.mark.parametrize("claims", [{"email": None}, {"email": "no address"}, {"email_verified": False}])
async def test_without_an_address_nobody_is_made(gateway: Gateway, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims |= claims
    refused(await log_in(gateway), 403, "no-email")


async def test_a_deactivated_user_does_not_come_in_this_way(gateway: Gateway) -> None:
    await log_in(gateway)
    await execute(gateway, "UPDATE users SET status = 'inactive'")
    refused(await log_in(gateway), 401, "oidc-refused")


async def test_a_domain_that_is_not_there_is_said(provider: Provider, database_url: str, engine: AsyncEngine) -> None:
    rules = json.dumps({"domain": {"claim": "org"}})
    async with gateway_of(provider, database_url, engine, oidc_claims=rules) as gateway:
        provider.claims["org"] = "nowhere"
        refused(await log_in(gateway), 403, "no-project")


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_claims": "{"},
        {"oidc_claims": '{"roles": {"claim": "x", "values": {"a": "emperor"}}}'},
        {"oidc_claims": '{"rolls": {}}'},
        {"oidc_client_id": ""},
        {"oidc_issuer": "http://provider.example"},
    ],
)
def test_settings_that_can_not_work_do_not_start(wrong: dict[str, str]) -> None:
    right = {
        "jwt_keys": JWT_KEYS,
        "oidc_issuer": "https://p.example",
        "oidc_client_id": "c",
        "oidc_redirect_uri": CALLBACK,
    }
    with pytest.raises(InvalidRequest):
        build(Settings(**(right | wrong)))  # type: ignore[arg-type]
