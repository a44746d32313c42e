"""Key pairs over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from moorage.db import principals
from moorage.db.keypairs import MOST_OF_A_USER
from tests.support.gateway import Gateway, basic, refused
from tests.support.tenants import Tenants


async def made(gateway: Gateway, who: dict[str, str], **wish: Any) -> dict[str, Any]:
    answer = await gateway.ask("POST", "/keypair", wish, who)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_ones_own_key_pair_is_made_used_and_deleted(gateway: Gateway, tenants: Tenants) -> None:
    mia = tenants["mia"]
    pair = await made(gateway, mia)
    keys = basic(pair["access_key"], pair["secret_key"])
    assert (await gateway.get("/whoami", keys)).json()["access_key"] == pair["access_key"]
    listed = (await gateway.get("/keypair", mia)).json()
    assert (listed["total"], [one["is_main"] for one in listed["items"]]) == (2, [True, False])
    assert "secret" not in str(listed)
    assert (await gateway.ask("DELETE", f"/keypair/{pair['access_key']}", who=mia)).status_code == 204
    assert await principals.by_access_key(gateway.engine, pair["access_key"]) is None
    refused(await gateway.ask("DELETE", f"/keypair/{pair['access_key']}", who=mia), 404, "unknown-keypair")


async def test_an_inactive_key_pair_opens_nothing(gateway: Gateway, tenants: Tenants) -> None:
    key = tenants.access_keys["mia"]
    changed = await gateway.ask("PATCH", f"/keypair/{key}", {"is_active": False}, tenants["mia"])
    assert changed.json()["is_active"] is False
    assert await principals.by_access_key(gateway.engine, key) is None


async def test_the_main_key_pair_is_chosen_and_moves_on(gateway: Gateway, tenants: Tenants) -> None:
    mia, first = tenants["mia"], tenants.access_keys["mia"]
    second = (await made(gateway, mia))["access_key"]
    assert (await gateway.ask("PATCH", f"/keypair/{second}", {"is_main": True}, mia)).json()["is_main"] is True
    assert (await tenants.principal("mia@lab.org")).access_key == second
    assert (await gateway.ask("DELETE", f"/keypair/{second}", who=mia)).status_code == 204
    assert (await tenants.principal("mia@lab.org")).access_key == first


@pytest.mark.parametrize("wish", [{"rate_limit": None}, {"rate_limit": 10**6}, {"policy": "unlimited"}], ids=str)
async def test_nobody_gives_himself_more_than_he_was_given(
    gateway: Gateway, tenants: Tenants, wish: dict[str, Any]
) -> None:
    key = tenants.access_keys["mia"]
    refused(await gateway.ask("PATCH", f"/keypair/{key}", wish, tenants["mia"]), 403, "forbidden")
    assert (await gateway.ask("PATCH", f"/keypair/{key}", wish, tenants["boss"])).status_code == 200
    refused(await gateway.ask("PATCH", f"/keypair/{key}", {"policy": "none"}, tenants["boss"]), 400, "unknown-policy")
    for other in ({"user": "uma@uni.org"}, {"secret": "x"}, {"rate_limit": 0}, {"is_main": "perhaps"}):
        refused(await gateway.ask("PATCH", f"/keypair/{key}", other, tenants["boss"]), 400, "invalid-api-params")


@pytest.mark.parametrize(
    ("method", "body"), [("GET", None), ("PATCH", {"is_active": False}), ("DELETE", None)], ids=str
)
async def test_somebody_elses_key_pair_does_not_exist(
    gateway: Gateway, tenants: Tenants, method: str, body: Any
) -> None:
    for who, whose in (("mia", "max"), ("lead", "mia"), ("boss", "uma"), ("dean", "mia")):
        path = f"/keypair/{tenants.access_keys[whose]}"
        refused(await gateway.ask(method, path, body, tenants[who]), 404, "unknown-keypair")
    refused(await gateway.ask(method, "/keypair/AKIANOBODY", body, tenants["mia"]), 404, "unknown-keypair")


async def test_keys_are_handed_to_others_by_whoever_administers_them_only(gateway: Gateway, tenants: Tenants) -> None:
    assert (await made(gateway, tenants["boss"], user="mia@lab.org"))["user"] == "mia@lab.org"
    refused(await gateway.ask("POST", "/keypair", {"user": "uma@uni.org"}, tenants["boss"]), 404, "unknown-user")
    refused(await gateway.ask("POST", "/keypair", {"user": "mia@lab.org"}, tenants["lead"]), 403, "forbidden")
    refused(await gateway.ask("POST", "/keypair", {"user": "max@lab.org"}, tenants["mia"]), 404, "unknown-user")
    assert (await gateway.get("/keypair", tenants["boss"], user="uma@uni.org")).json()["total"] == 0
    assert (await gateway.get("/keypair", tenants["boss"], user="MIA@lab.org")).json()["total"] == 2


async def test_a_user_has_not_any_number_of_key_pairs(gateway: Gateway, tenants: Tenants) -> None:
    for _ in range(MOST_OF_A_USER - 1):
        await made(gateway, tenants["mia"])
    problem = refused(await gateway.ask("POST", "/keypair", {}, tenants["mia"]), 409, "too-many-keypairs")
    assert problem["data"] == {"limit": MOST_OF_A_USER, "now": MOST_OF_A_USER}


async def test_the_limits_of_a_deleted_key_pair_go_with_it(gateway: Gateway, tenants: Tenants) -> None:
    key = tenants.access_keys["mia"]
    assert (await gateway.ask("PUT", f"/limit/keypair/{key}", {"max_sessions": 1})).status_code == 200
    assert (await gateway.ask("DELETE", f"/keypair/{key}")).status_code == 204
    assert (await gateway.get("/limit", gateway.root)).json()["items"] == []
