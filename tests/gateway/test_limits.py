"""Limits over HTTP: who has them, and what they refuse at the door."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from moorage.db import nodes
from tests.support.builders import an_agent
from tests.support.gateway import WISH, Gateway, access_key_of, refused

ADA = "user/ada@example.org"


async def limit(gateway: Gateway, owner: str = ADA, **wish: Any) -> dict[str, Any]:
    answer = await gateway.ask("PUT", f"/limit/{owner}", wish)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_of_fifty_submitted_at_once_as_many_are_admitted_as_the_limit_says(gateway: Gateway) -> None:
    await limit(gateway, max_pending=10)
    answers = await asyncio.gather(*(gateway.submit() for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 40
    problem = refused(next(one for one in answers if one.status_code == 409), 409, "pending-limit")
    assert (problem["data"]["limit"], problem["data"]["now"], problem["data"]["asked"]) == (10, 10, 1)
    assert (await gateway.get("/session")).json()["total"] == 10


async def test_limits_of_several_scopes_hold_under_concurrent_submitters(gateway: Gateway) -> None:
    await limit(gateway, "domain/default", max_pending=12)
    await limit(gateway, "project/default/default", max_pending_slots={"cpu": 14})
    await limit(gateway, max_pending=5)
    both = [gateway.submit(who) for _ in range(25) for who in (gateway.ada, gateway.bob)]
    answers = await asyncio.gather(*both)
    assert sum(answer.status_code == 201 for answer in answers) == 12
    assert {answer.status_code for answer in answers} == {201, 409}
    assert (await gateway.get("/session", gateway.ada)).json()["total"] <= 5


@pytest.mark.parametrize("scope", ["keypair", "user", "project", "domain"])
async def test_each_scope_counts_its_own_sessions(gateway: Gateway, scope: str) -> None:
    names = {
        "keypair": access_key_of(gateway.ada),
        "user": "ada@example.org",
        "project": "default/default",
        "domain": "default",
    }
    await limit(gateway, f"{scope}/{names[scope]}", max_pending=1)
    await gateway.submitted()
    problem = refused(await gateway.submit(), 409, "pending-limit")
    assert (problem["data"]["scope"], problem["data"]["name"]) == (scope, names[scope])
    if scope in ("keypair", "user"):
        await gateway.submitted(gateway.bob)
    else:
        refused(await gateway.submit(gateway.bob), 409, "pending-limit")


async def test_waiting_slots_count_every_kernel_of_a_gang(gateway: Gateway) -> None:
    await limit(gateway, max_pending_slots={"cpu": 8})
    await gateway.submitted(cluster_size=3, cluster_mode="multi-node", resources={"cpu": 2})
    problem = refused(await gateway.submit(cluster_size=3), 409, "pending-limit")
    assert (problem["data"]["limit"], problem["data"]["now"], problem["data"]["asked"]) == (8000, 6000, 3000)
    assert "cpu 6 wait already and this one asks 3; at most 8" in problem["title"]
    await gateway.submitted(cluster_size=2)


async def test_what_no_longer_waits_does_not_count(gateway: Gateway) -> None:
    await limit(gateway, max_pending=1)
    made = await gateway.submitted()
    await gateway.end(made["id"])
    await gateway.submitted()


async def test_the_same_request_again_is_not_counted_twice(gateway: Gateway) -> None:
    await limit(gateway, max_pending=1)
    headers = {**gateway.ada, "Idempotency-Key": "once"}
    answers = await asyncio.gather(*(gateway.http.post("/session", json=WISH, headers=headers) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [201] * 5
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_a_limit_is_shown_in_base_units_and_replaced_as_a_whole(gateway: Gateway) -> None:
    await limit(gateway, max_sessions=5, max_slots={"cpu": 8, "mem": "32g"}, weight=2)
    shown = (await gateway.get("/limit")).json()["items"]
    assert shown == [
        {
            "scope": "user",
            "name": "ada@example.org",
            "max_sessions": 5,
            "max_slots": {"cpu": 8000, "mem": 32 * 1024**3},
            "max_pending": None,
            "max_pending_slots": {},
            "weight": 2,
            "max_containers": None,
            "max_priority": None,
            "max_job_priority": None,
            "max_lifetime_s": None,
            "idle_timeout_s": None,
            "idle": None,
            "allowed_folder_hosts": None,
        }
    ]
    assert (await limit(gateway, max_pending=3))["max_sessions"] is None


async def test_one_sees_the_limits_that_apply_to_oneself(gateway: Gateway) -> None:
    await limit(gateway, max_pending=1)
    await limit(gateway, "domain/default", max_pending=9)
    seen = {
        name: [one["scope"] for one in (await gateway.get("/limit", who)).json()["items"]]
        for name, who in (("ada", gateway.ada), ("bob", gateway.bob), ("root", gateway.root))
    }
    assert seen == {"ada": ["domain", "user"], "bob": ["domain"], "root": ["domain", "user"]}


async def test_a_removed_limit_limits_nothing(gateway: Gateway) -> None:
    await limit(gateway, "project/default/default", max_pending=0)
    refused(await gateway.submit(), 409, "pending-limit")
    assert (await gateway.ask("DELETE", "/limit/project/default/default")).status_code == 204
    await gateway.submitted()
    refused(await gateway.ask("DELETE", "/limit/project/default/default"), 404, "unknown-limit")


@pytest.mark.parametrize(
    ("owner", "wish", "code", "said"),
    [
        ("team/default", {}, "invalid-api-params", "'keypair', 'user', 'project' or 'domain'"),
        (ADA, {"weight": 0}, "invalid-api-params", "greater than 0"),
        (ADA, {"weight": -1}, "invalid-api-params", "greater than 0"),
        (ADA, {"weight": "nan"}, "invalid-api-params", "weight"),
        (ADA, {"max_sessions": -1}, "invalid-api-params", "greater than or equal to 0"),
        (ADA, {"max_pending": 2**31}, "invalid-api-params", "less than"),
        (ADA, {"max_slots": {"cpu": -1}}, "malformed-size", "cpu"),
        (ADA, {"max_slots": {"mem": "lots"}}, "malformed-size", "256m"),
        (ADA, {"max_slots": {"tpu": 1}}, "unknown-slot", "cpu, mem"),
        (ADA, {"max_pending_slots": {"tpu": 1}}, "unknown-slot", "cpu, mem"),
        (ADA, {"max_running": 1}, "invalid-api-params", "max_running"),
        (ADA, {"max_containers": 0}, "invalid-api-params", "greater than or equal to 1"),
        (ADA, {"max_priority": 101}, "invalid-api-params", "less than or equal to 100"),
        (ADA, {"max_lifetime_s": 0}, "invalid-api-params", "greater than 0"),
        (ADA, {"idle_timeout_s": -1}, "invalid-api-params", "greater than 0"),
    ],
    ids=str,
)
async def test_what_is_no_limit_is_refused_when_written(
    gateway: Gateway, owner: str, wish: dict[str, Any], code: str, said: str
) -> None:
    assert said in refused(await gateway.ask("PUT", f"/limit/{quote(owner)}", wish), 400, code)["title"]
    assert (await gateway.get("/limit", gateway.root)).json()["items"] == []


@pytest.mark.parametrize(
    ("owner", "code", "said"),
    [
        ("user/nobody@example.org", "unknown-user", "e-mail"),
        ("keypair/AKIANOBODY", "unknown-keypair", "access key"),
        ("project/default", "unknown-project", "domain/project"),
        ("domain/nowhere", "unknown-domain", "nowhere"),
    ],
)
async def test_an_owner_that_is_not_there_has_no_limit(gateway: Gateway, owner: str, code: str, said: str) -> None:
    for method in ("PUT", "DELETE"):
        assert said in refused(await gateway.ask(method, f"/limit/{quote(owner)}", {}), 404, code)["title"]


async def test_every_field_of_a_limit_is_kept(gateway: Gateway) -> None:
    wish: dict[str, Any] = {
        "max_containers": 2,
        "max_priority": 20,
        "max_job_priority": -1,
        "max_lifetime_s": 3600.0,
        "idle_timeout_s": 60.0,
        "allowed_folder_hosts": ["local:volume1"],
    }
    kept = await limit(gateway, **wish)
    assert {name: kept[name] for name in wish} == wish
    assert (await gateway.get("/limit")).json()["items"] == [kept]


async def test_a_slot_that_a_node_offered_once_can_be_limited(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1", slots={"cuda.shares": 200}))
    assert (await limit(gateway, max_slots={"cuda.shares": 0.5}))["max_slots"] == {"cuda.shares": 50}
