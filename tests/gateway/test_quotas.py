"""Policies, quotas and grants over HTTP: who may write and see them, what they refuse, and how exactly they hold."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from moorage.db import nodes, tenancy
from moorage.domain.node import Device
from moorage.seal import Seal
from tests.support.builders import KEYS, an_agent
from tests.support.gateway import PASSWORD, WISH, Gateway, access_key_of, basic, refused

GPUS = [Device(f"gpu{n}", "cuda.device") for n in range(8)]
ADA = "ada@example.org"


async def run(gateway: Gateway, statement: str, **values: object) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(text(statement), values)


async def a_policy(gateway: Gateway, kind: str, name: str = "default", **fields: Any) -> dict[str, Any]:
    answer = await gateway.ask("PATCH", f"/policy/{kind}/{name}", fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def a_limit(gateway: Gateway, owner: str, **fields: Any) -> None:
    answer = await gateway.ask("PUT", f"/limit/{owner}", fields)
    assert answer.status_code == 200, answer.text


async def granted(gateway: Gateway, who: dict[str, str] | None = None, **wish: Any) -> dict[str, Any]:
    answer = await gateway.ask("POST", "/grant", {"scope": "user", "name": ADA, "ends": "3d", **wish}, who)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def an_admin(gateway: Gateway, domain: str = "default", email: str = "dora@example.org") -> dict[str, str]:
    """An administrator of a domain."""
    keys = await tenancy.create_user(gateway.engine, Seal(KEYS), email, PASSWORD)
    await run(gateway, "INSERT INTO domains (name) VALUES (:d) ON CONFLICT DO NOTHING", d=domain)
    await run(
        gateway,
        "INSERT INTO projects (id, domain, name) VALUES (gen_random_uuid(), :d, 'default') ON CONFLICT DO NOTHING",
        d=domain,
    )
    await run(
        gateway,
        "UPDATE users SET role = 'admin', domain = :d, project_id = (SELECT id FROM projects WHERE domain = :d"
        " AND name = 'default') WHERE email = :email",
        d=domain,
        email=email,
    )
    return basic(*keys)


async def a_project_admin(gateway: Gateway) -> dict[str, str]:
    keys = await tenancy.create_user(gateway.engine, Seal(KEYS), "pat@example.org", PASSWORD)
    await run(
        gateway,
        "INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by) SELECT gen_random_uuid(),"
        " id, 'project-admin', 'project', project_id::text, 'root' FROM users WHERE email = 'pat@example.org'",
    )
    return basic(*keys)


async def audited(gateway: Gateway, operation: str) -> list[Any]:
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT record::jsonb AS r FROM audit WHERE operation = :o ORDER BY seq"), {"o": operation}
        )
        return list(rows.scalars())


# Policies.


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


# Ceilings.


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


# What could never run.


async def test_what_a_limit_can_never_hold_is_refused_at_once_with_numbers(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, "project/default/default", max_slots={"cuda.device": 4})
    wish: dict[str, Any] = {"resources": {"cuda.device": 4}, "cluster_size": 2}
    for path in ("/session", "/plan"):
        answer = await gateway.http.post(path, json={**WISH, **wish}, headers=gateway.ada)
        problem = refused(answer, 409, "quota-exceeded")
        assert problem["data"] == {
            "scope": "project",
            "name": "default/default",
            "limit": 4,
            "asked": 8,
            "slot": "cuda.device",
        }
    await gateway.submitted(**{**wish, "cluster_size": 1})


@pytest.mark.parametrize("starts", ["0s", "2d"])
async def test_what_a_grant_will_allow_waits_for_it(gateway: Gateway, starts: str) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, f"user/{ADA}", max_slots={"cuda.device": 4})
    wish: dict[str, Any] = {"resources": {"cuda.device": 8}}
    await granted(gateway, slot="cuda.device", amount=2, starts=starts)
    refused(await gateway.submit(**wish), 409, "quota-exceeded")
    other = await granted(gateway, slot="cuda.device", amount=2, starts="1h", ends="4d")
    await gateway.submitted(**wish)
    await gateway.ask("DELETE", f"/grant/{other['id']}")
    refused(await gateway.submit(**wish), 409, "quota-exceeded")


async def test_grants_that_follow_one_another_do_not_add_up(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, f"user/{ADA}", max_slots={"cuda.device": 4})
    await granted(gateway, slot="cuda.device", amount=2, starts="0s", ends="1d")
    await granted(gateway, slot="cuda.device", amount=2, starts="2d", ends="1d")
    refused(await gateway.submit(resources={"cuda.device": 8}), 409, "quota-exceeded")


async def test_where_no_session_may_run_none_is_queued(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_sessions=0)
    assert refused(await gateway.submit(), 409, "quota-exceeded")["data"]["slot"] == "sessions"
    await granted(gateway, slot="sessions", amount=1, starts="1h")
    await gateway.submitted()


# Grants.


async def test_a_grant_tells_who_gave_what_until_when_and_why(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_slots={"cpu": 4})
    made = await granted(gateway, slot="cpu", amount="1.5", reason="the deadline")
    assert (made["state"], made["amount"], made["given_by"]) == ("in-force", 1500, "root@example.org")
    length = datetime.fromisoformat(made["ends_at"]) - datetime.now(UTC)
    assert timedelta(days=2, hours=23) < length <= timedelta(days=3)
    assert (await gateway.get("/grant")).json()["items"] == [made]
    [quota] = (await gateway.get("/quota", scope="user", name=ADA)).json()["items"]
    assert quota["slots"] == {"cpu": {"used": 0, "limit": 5500}}
    assert quota["grants"][0]["reason"] == "the deadline"
    assert (await audited(gateway, "grant:create"))[0]["after"]["amount"] == 1500


async def test_a_revoked_grant_counts_no_more_and_is_kept(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_sessions=1)
    made = await granted(gateway, slot="sessions", amount=2)
    for _ in range(2):
        assert (await gateway.ask("DELETE", f"/grant/{made['id']}")).status_code == 204
    [kept] = (await gateway.get("/grant")).json()["items"]
    assert (kept["state"], kept["revoked_by"]) == ("revoked", "root@example.org")
    assert len(await audited(gateway, "grant:delete")) == 1
    refused(await gateway.ask("DELETE", "/grant/00000000-0000-4000-8000-000000000009"), 404, "unknown-grant")
    refused(await gateway.ask("DELETE", "/grant/none"), 400, "invalid-api-params")


BAD_GRANTS: list[tuple[dict[str, Any], int, str]] = [
    ({"slot": "mem", "amount": "1g"}, 409, "no-limit"),
    ({"slot": "sessions", "amount": 1}, 409, "no-limit"),
    ({"slot": "cpu", "amount": 1, "ends": "2001-01-01"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "starts": "0s", "ends": "0s"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "367d"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "starts": "500d", "ends": "1d"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "9999-12-31T23:59:59Z"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "Friday"}, 400, "malformed-time"),
    ({"slot": "cpu", "amount": 1, "ends": "999999999d"}, 400, "malformed-time"),
    ({"slot": "cpu", "amount": 0}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": -1}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": "1e300"}, 400, "malformed-size"),
    ({"slot": "sessions", "amount": 1.5}, 400, "malformed-size"),
    ({"slot": "sessions", "amount": 2**40}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": 1, "name": "nobody@example.org"}, 404, "unknown-user"),
    ({"slot": "cpu", "amount": 1, "scope": "team"}, 400, "invalid-api-params"),
    ({"slot": "cpu", "amount": 1, "given_by": "me"}, 400, "invalid-api-params"),
]


async def test_a_grant_that_would_change_nothing_or_lasts_for_ever_is_refused(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_slots={"cpu": 4})
    for wish, status, code in BAD_GRANTS:
        refused(await gateway.ask("POST", "/grant", {"scope": "user", "name": ADA, "ends": "3d", **wish}), status, code)
    assert (await gateway.get("/grant", gateway.root)).json()["items"] == []


# Who may set, give and see.


async def test_a_domains_admin_reaches_what_lies_in_it_and_not_the_domain_itself(gateway: Gateway) -> None:
    admin = await an_admin(gateway)
    for owner in (f"user/{ADA}", f"keypair/{access_key_of(gateway.ada)}", "project/default/default"):
        assert (await gateway.ask("PUT", f"/limit/{owner}", {"max_sessions": 5}, admin)).status_code == 200
        scope, _, name = owner.partition("/")
        made = await granted(gateway, admin, scope=scope, name=name, slot="sessions", amount=1)
        assert (await gateway.ask("DELETE", f"/grant/{made['id']}", None, admin)).status_code == 204
        assert (await gateway.ask("DELETE", f"/limit/{owner}", None, admin)).status_code == 204
    await a_limit(gateway, "domain/default", max_sessions=5)
    refused(await gateway.ask("PUT", "/limit/domain/default", {}, admin), 403, "forbidden")
    refused(await gateway.ask("DELETE", "/limit/domain/default", None, admin), 403, "forbidden")
    wish = {"scope": "domain", "name": "default", "slot": "sessions", "amount": 1, "ends": "1d"}
    refused(await gateway.ask("POST", "/grant", wish, admin), 403, "forbidden")
    made = await granted(gateway, scope="domain", name="default", slot="sessions", amount=1)
    refused(await gateway.ask("DELETE", f"/grant/{made['id']}", None, admin), 403, "forbidden")
    assert (await audited(gateway, "limit:update"))[0]["actor"] == "dora@example.org"


async def test_a_domains_admin_does_not_touch_a_superadmin_in_it(gateway: Gateway) -> None:
    admin = await an_admin(gateway)
    for owner in ("user/root@example.org", f"keypair/{access_key_of(gateway.root)}"):
        refused(await gateway.ask("PUT", f"/limit/{owner}", {"max_sessions": 0}, admin), 403, "forbidden")


async def test_an_admin_of_another_domain_learns_nothing_of_owners_here(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_sessions=5)
    await a_limit(gateway, "domain/default", max_sessions=5)
    made = await granted(gateway, slot="sessions", amount=1)
    other = await an_admin(gateway, "elsewhere")
    for owner, code in (
        (f"user/{ADA}", "unknown-user"),
        (f"keypair/{access_key_of(gateway.ada)}", "unknown-keypair"),
        ("project/default/default", "unknown-project"),
        ("domain/default", "unknown-domain"),
    ):
        scope, _, name = owner.partition("/")
        refused(await gateway.ask("PUT", f"/limit/{owner}", {}, other), 404, code)
        refused(await gateway.ask("DELETE", f"/limit/{owner}", None, other), 404, code)
        refused(await gateway.get("/quota", other, scope=scope, name=name), 404, code)
        wish = {"scope": scope, "name": name, "slot": "sessions", "amount": 1, "ends": "1d"}
        refused(await gateway.ask("POST", "/grant", wish, other), 404, code)
    refused(await gateway.ask("DELETE", f"/grant/{made['id']}", None, other), 404, "unknown-grant")
    assert (await gateway.get("/limit", other)).json()["items"] == []
    assert (await gateway.get("/grant", other)).json()["items"] == []


async def test_neither_a_user_nor_a_projects_admin_gives_itself_more(gateway: Gateway) -> None:
    await a_limit(gateway, "project/default/default", max_sessions=5)
    for who in (gateway.ada, await a_project_admin(gateway)):
        for owner in (f"user/{ADA}", "project/default/default", "domain/default"):
            refused(await gateway.ask("PUT", f"/limit/{owner}", {}, who), 403, "forbidden")
        wish = {"scope": "project", "name": "default/default", "slot": "sessions", "amount": 1, "ends": "1d"}
        refused(await gateway.ask("POST", "/grant", wish, who), 403, "forbidden")


async def test_members_see_what_their_project_may_have_and_not_what_other_members_may(gateway: Gateway) -> None:
    await a_limit(gateway, "project/default/default", max_sessions=5)
    await a_limit(gateway, f"user/{ADA}", max_sessions=1)
    await a_limit(gateway, f"keypair/{access_key_of(gateway.ada)}", max_sessions=1)
    seen = {
        name: [one["scope"] for one in (await gateway.get("/limit", who)).json()["items"]]
        for name, who in (
            ("ada", gateway.ada),
            ("bob", gateway.bob),
            ("pat", await a_project_admin(gateway)),
            ("dora", await an_admin(gateway)),
        )
    }
    everything = ["keypair", "project", "user"]
    assert seen == {"ada": everything, "bob": ["project"], "pat": ["project"], "dora": everything}
    refused(await gateway.get("/quota", gateway.bob, scope="user", name=ADA), 404, "unknown-user")
    assert (await gateway.get("/quota", gateway.bob, scope="project", name="default/default")).status_code == 200


# Quotas in one look.


async def test_one_look_shows_what_is_used_of_what_is_allowed(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_sessions=5, max_pending=3, max_slots={"cpu": 8, "mem": "4g"})
    await a_limit(gateway, "project/default/default", max_pending_slots={"cpu": 8})
    await gateway.submitted(cluster_size=2, cluster_mode="multi-node", resources={"cpu": 2})
    await gateway.submitted(gateway.bob)
    look = (await gateway.get("/resource")).json()
    assert [(one["scope"], one["name"]) for one in look["quotas"]] == [
        ("keypair", access_key_of(gateway.ada)),
        ("user", ADA),
        ("project", "default/default"),
        ("domain", "default"),
    ]
    key, user, project, domain = look["quotas"]
    assert (key["ceilings"]["max_priority"], key["policy"]) == (10, "default")
    assert user["sessions"] == {"used": 0, "limit": 5}
    assert user["pending"] == {"used": 1, "limit": 3}
    assert user["slots"] == {"cpu": {"used": 0, "limit": 8000}, "mem": {"used": 0, "limit": 4 * 1024**3}}
    assert project["pending"] == {"used": 2, "limit": None}
    assert project["pending_slots"]["cpu"] == {"used": 5000, "limit": 8000}
    assert (domain["policy"], domain["pending"]["used"]) == (None, 2)
    assert (await gateway.get("/quota")).json()["items"] == look["quotas"]
    refused(await gateway.get("/quota", scope="user"), 400, "invalid-api-params")


async def test_what_is_held_counts_as_used_until_it_is_released(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    made = await gateway.submitted(resources={"cpu": 2})
    await run(gateway, "UPDATE sessions SET status = 'SCHEDULED' WHERE id = :id", id=made["id"])
    await run(
        gateway,
        "INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)"
        " SELECT id, 0, 'cpu', session_id, 'n1', 2000 FROM kernels",
    )
    user = (await gateway.get("/quota", scope="user", name=ADA)).json()["items"][0]
    assert (user["sessions"]["used"], user["slots"]["cpu"]["used"], user["pending"]["used"]) == (1, 2000, 0)
    await run(gateway, "UPDATE allocations SET released_at = now()")
    user = (await gateway.get("/quota", scope="user", name=ADA)).json()["items"][0]
    assert (user["sessions"]["used"], user["slots"]) == (0, {})


async def test_amounts_beyond_all_measure_break_nobodys_look(gateway: Gateway) -> None:
    await a_limit(
        gateway, f"user/{ADA}", max_sessions=2**31 - 1, max_pending_slots={"mem": "4e"}, max_slots={"mem": "4e"}
    )
    for _ in range(2):
        await granted(gateway, slot="sessions", amount=2**31 - 1)
        await granted(gateway, slot="mem", amount=2**53)
    problem = refused(await gateway.submit(resources={"mem": "4e"}, cluster_size=4096), 409, "quota-exceeded")
    assert problem["data"]["asked"] == 2**62 * 4096
    await gateway.submitted(gateway.bob, resources={"mem": "4e"}, cluster_size=4096)
    user, project = (await gateway.get("/resource")).json()["quotas"][1:3]
    assert user["sessions"]["limit"] == 2**31 - 1
    assert project["pending"]["used"] == 1
    await a_limit(gateway, "project/default/default", max_pending_slots={"mem": "1g"})
    refused(await gateway.submit(), 409, "pending-limit")


async def test_the_main_project_comes_first(gateway: Gateway) -> None:
    await run(gateway, "INSERT INTO projects (id, domain, name) VALUES (gen_random_uuid(), 'default', 'another')")
    await run(
        gateway,
        "INSERT INTO memberships (user_id, project_id) SELECT u.id, p.id FROM users u, projects p"
        " WHERE u.email = :ada AND p.name = 'another'",
        ada=ADA,
    )
    names = [one["name"] for one in (await gateway.get("/quota")).json()["items"] if one["scope"] == "project"]
    assert names == ["default/default", "default/another"]
