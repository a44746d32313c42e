"""Quotas over HTTP: whose one may set and see, and what is used of what is allowed."""

from __future__ import annotations

from moorage.db import nodes
from tests.support.builders import an_agent
from tests.support.gateway import Gateway, access_key_of, refused
from tests.support.quotas import ADA, a_limit, a_policy, a_project_admin, an_admin, audited, granted, run


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
