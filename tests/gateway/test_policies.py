"""Policies and ceilings over HTTP: who may write them, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moorage.db import tenancy
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import PASSWORD, WISH, Gateway, access_key_of, basic, refused
from tests.support.quotas import ADA, a_limit, a_policy, an_admin, audited, run


async def test_of_two_hundred_submitted_at_once_as_many_are_admitted_as_the_policy_says(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_pending=10)
    answers = await asyncio.gather(*(gateway.submit() for _ in range(200)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 190
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"pending-limit"}
    assert (await gateway.get("/session")).json()["total"] == 10
    await gateway.submitted(gateway.bob)


async def test_a_policy_is_made_shown_changed_and_removed(gateway: Gateway) -> None:
    wish = {"kind": "project", "name": "small", "description": "a few", "max_sessions": 3, "max_slots": {"cpu": 8}}
    made = await gateway.ask("POST", "/policy", wish)
    assert made.status_code == 201, made.text
    assert made.json()["max_slots"] == {"cpu": 8000}
    assert (await gateway.get("/policy/project/small")).json() == made.json()
    changed = await a_policy(gateway, "project", "small", max_slots={"mem": "1g"}, max_sessions=None)
    assert (changed["max_slots"], changed["max_sessions"], changed["description"]) == ({"mem": 1024**3}, None, "a few")
    assert [one["name"] for one in (await gateway.get("/policy", kind="project")).json()["items"]] == [
        "default",
        "small",
    ]
    assert (await gateway.ask("DELETE", "/policy/project/small")).status_code == 204
    refused(await gateway.get("/policy/project/small"), 404, "unknown-resource-policy")
    assert [one["after"] and one["after"]["max_slots"] for one in await audited(gateway, "policy:update")] == [
        {"mem": 1024**3}
    ]
    assert (await audited(gateway, "policy:delete"))[0]["before"]["name"] == "small"


async def test_a_policy_in_use_stays_and_says_how_many_have_it(gateway: Gateway) -> None:
    await gateway.ask("POST", "/policy", {"kind": "user", "name": "small"})
    await run(gateway, "UPDATE users SET policy = 'small' WHERE email IN (:ada, 'bob@example.org')", ada=ADA)
    problem = refused(await gateway.ask("DELETE", "/policy/user/small"), 409, "policy-in-use")
    assert problem["data"]["used_by"] == 2
    assert (await gateway.get("/policy/user/small")).json()["used_by"] == 2
    await run(gateway, "UPDATE users SET policy = 'small'")
    refused(await gateway.ask("DELETE", "/policy/user/default"), 409, "policy-in-use")


async def test_a_policy_of_a_name_is_made_once(gateway: Gateway) -> None:
    wish = {"kind": "user", "name": "twice"}
    answers = await asyncio.gather(*(gateway.ask("POST", "/policy", wish) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    refused(await gateway.ask("POST", "/policy", wish), 409, "policy-exists")


async def test_only_superadmins_write_policies_and_all_read_them(gateway: Gateway) -> None:
    admin = await an_admin(gateway)
    for who in (gateway.ada, admin):
        assert (await gateway.get("/policy", who)).status_code == 200
        refused(await gateway.ask("POST", "/policy", {"kind": "user", "name": "mine"}, who), 403, "forbidden")
        refused(await gateway.ask("PATCH", "/policy/user/default", {"max_sessions": 9}, who), 403, "forbidden")
        refused(await gateway.ask("DELETE", "/policy/keypair/unlimited", None, who), 403, "forbidden")


BAD_POLICIES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "domain", "name": "x"}, "invalid-api-params"),
    ({"kind": "user", "name": "a/b"}, "invalid-api-params"),
    ({"kind": "user", "name": ""}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "max_slots": {"tpu": 1}}, "unknown-slot"),
    ({"kind": "user", "name": "x", "max_slots": {"cpu": "many"}}, "malformed-size"),
    ({"kind": "user", "name": "x", "max_containers": 0}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "max_priority": 101}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "used_by": 0}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "weight": 2}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "max_slots": None}, "invalid-api-params"),
    ({"kind": "user", "name": "x", "description": "\0"}, "invalid-api-params"),
]


async def test_what_is_no_policy_is_refused(gateway: Gateway) -> None:
    for wish, code in BAD_POLICIES:
        refused(await gateway.ask("POST", "/policy", wish), 400, code)
    assert len((await gateway.get("/policy")).json()["items"]) == 4


@pytest.mark.parametrize(
    ("owner", "ceiling", "most", "wish"),
    [
        ("keypair", "max_containers", 2, {"cluster_size": 3}),
        ("user", "max_priority", 5, {"priority": 6}),
        ("project", "max_job_priority", -1, {"job_priority": 0}),
        ("domain", "max_lifetime_s", 3600, {"lifetime_s": 3601}),
        ("user", "max_lifetime_s", 3600, {"batch_timeout_s": 3601}),
    ],
    ids=str,
)
async def test_a_session_asks_no_more_than_each_of_its_owners_allows(
    gateway: Gateway, owner: str, ceiling: str, most: int, wish: dict[str, Any]
) -> None:
    names = {"keypair": access_key_of(gateway.ada), "user": ADA, "project": "default/default", "domain": "default"}
    await a_limit(gateway, f"{owner}/{names[owner]}", **{ceiling: most})
    [(field, asked)] = wish.items()
    for path in ("/session", "/plan"):
        answer = await gateway.http.post(path, json={**WISH, **wish}, headers=gateway.ada)
        data = refused(answer, 409, "policy-ceiling")["data"]
        assert (data["scope"], data["name"], data["ceiling"]) == (owner, names[owner], ceiling)
        assert (data["field"], data["limit"], data["asked"]) == (field, most, asked)
    allowed: dict[str, Any] = {field: most}
    await gateway.submitted(**allowed)


async def test_the_smallest_ceiling_holds(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_containers=3)
    await a_policy(gateway, "project", max_containers=2)
    assert refused(await gateway.submit(cluster_size=3), 409, "policy-ceiling")["data"]["policy"] == "default"
    await gateway.submitted(cluster_size=2)


async def test_a_session_without_a_lifetime_gets_the_longest_one(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_lifetime_s=3600)
    await a_policy(gateway, "project", max_lifetime_s=1800)
    made = await gateway.submitted()
    assert made["lifetime_s"] == 1800
    assert (await gateway.get(f"/session/{made['id']}")).json()["lifetime_s"] == 1800
    assert (await gateway.submitted(lifetime_s=60))["lifetime_s"] == 60


async def test_a_new_key_takes_no_priority_above_the_default_and_the_first_superadmin_any(gateway: Gateway) -> None:
    refused(await gateway.submit(priority=11), 409, "policy-ceiling")
    refused(await gateway.submit(job_priority=1), 409, "policy-ceiling")
    await gateway.submitted(gateway.root, priority=100, job_priority=7)


async def test_a_policy_of_its_own_lets_a_key_ask_more(gateway: Gateway) -> None:
    keys = await tenancy.create_user(gateway.engine, Seal(KEYS), "vip@example.org", PASSWORD, policy="unlimited")
    await gateway.submitted(basic(*keys), priority=100, job_priority=7)


async def test_whoever_has_no_key_asks_no_more_than_a_new_one_might(gateway: Gateway) -> None:
    login = {"email": ADA, "password": PASSWORD}
    token = (await gateway.http.post("/auth/login", json=login)).json()["token"]
    await run(gateway, "UPDATE keypairs SET is_active = false WHERE access_key = :key", key=access_key_of(gateway.ada))
    ada = {"Authorization": f"Bearer {token}"}
    refused(await gateway.submit(ada, priority=11), 409, "policy-ceiling")
    await gateway.submitted(ada)
