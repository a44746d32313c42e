"""Roles over HTTP: who may hand out what, where, and for how long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from moorage.domain.permissions import BUILT_IN
from tests.support.gateway import Gateway, refused
from tests.support.tenants import Tenants

LATER = datetime.now(UTC) + timedelta(days=1)


async def role(gateway: Gateway, name: str, *permissions: str) -> None:
    answer = await gateway.ask("POST", "/role", {"name": name, "permissions": list(permissions)})
    assert answer.status_code == 201, answer.text


async def assign(
    gateway: Gateway, who: dict[str, str], name: str, user: str, kind: str, scope: str = "", **more: Any
) -> Any:
    body = {"user": user, "scope_kind": kind, "scope": scope, **more}
    return await gateway.ask("POST", f"/role/{name}/assignment", body, who)


async def test_whoever_is_signed_in_may_know_what_a_role_is(gateway: Gateway) -> None:
    await role(gateway, "viewer", "session:read", "user:read")
    shown = {one["name"]: one for one in (await gateway.get("/role")).json()["items"]}
    assert shown.keys() == {*BUILT_IN, "viewer"}
    assert (shown["project-admin"]["built_in"], shown["project-admin"]["held_in"]) == (True, ["project"])
    assert (await gateway.get("/role/viewer")).json()["permissions"] == ["session:read", "user:read"]
    refused(await gateway.get("/role/none"), 404, "unknown-role")


async def test_patterns_are_kept_as_what_they_mean(gateway: Gateway) -> None:
    await role(gateway, "looker", "*:read", "session:*")
    kept = (await gateway.get("/role/looker")).json()["permissions"]
    assert {"audit:read", "session:execute"} <= set(kept)
    assert not [one for one in kept if "*" in one]


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"name": "viewer", "permissions": ["session:fly"]}, 400, "unknown-permission"),
        ({"name": "viewer", "permissions": [""]}, 400, "unknown-permission"),
        ({"name": "vie wer", "permissions": []}, 400, "invalid-name"),
        ({"name": "superadmin", "permissions": []}, 409, "role-exists"),
        ({"name": "viewer"}, 400, "invalid-api-params"),
        ({"name": "viewer", "permissions": [], "built_in": True}, 400, "invalid-api-params"),
    ],
    ids=str,
)
async def test_what_is_no_role_is_refused(gateway: Gateway, wish: dict[str, Any], status: int, code: str) -> None:
    refused(await gateway.ask("POST", "/role", wish), status, code)


async def test_a_built_in_role_stays_as_it_is(gateway: Gateway) -> None:
    refused(await gateway.ask("PATCH", "/role/member", {"permissions": ["*:*"]}), 400, "role-built-in")
    refused(await gateway.ask("DELETE", "/role/member"), 400, "role-built-in")


async def test_only_who_may_everywhere_changes_what_roles_are(gateway: Gateway, tenants: Tenants) -> None:
    await role(gateway, "viewer", "session:read")
    for name in ("boss", "lead", "mia"):
        for method, path, body in (
            ("POST", "/role", {"name": "mine", "permissions": ["*:*"]}),
            ("PATCH", "/role/viewer", {"permissions": ["*:*"]}),
            ("DELETE", "/role/viewer", None),
        ):
            refused(await gateway.ask(method, path, body, tenants[name]), 403, "forbidden")


async def test_whoever_edits_roles_puts_no_more_into_them_than_he_holds(gateway: Gateway, tenants: Tenants) -> None:
    await role(gateway, "editor", "role:create", "role:update", "role:read")
    editor = await tenants.user("editor")
    await tenants.give("editor", "editor@lab.org", "global")
    wish = {"permissions": ["*:*"]}
    refused(await gateway.ask("PATCH", "/role/editor", wish, editor), 403, "exceeds-own")
    refused(await gateway.ask("POST", "/role", {"name": "more", **wish}, editor), 403, "exceeds-own")
    assert (await gateway.ask("PATCH", "/role/editor", {"description": "x"}, editor)).status_code == 200


async def test_a_role_that_somebody_holds_is_not_deleted_and_says_who(gateway: Gateway, tenants: Tenants) -> None:
    await role(gateway, "viewer", "session:read")
    given = await tenants.give("viewer", "mia@lab.org", "project", "lab/ml")
    problem = refused(await gateway.ask("DELETE", "/role/viewer"), 409, "role-in-use")
    assert problem["data"]["holders"][0]["email"] == "mia@lab.org"
    assert (await gateway.ask("DELETE", f"/role/assignment/{given}")).status_code == 204
    assert (await gateway.ask("DELETE", "/role/viewer")).status_code == 204


async def test_an_administrator_hands_out_roles_within_the_domain(gateway: Gateway, tenants: Tenants) -> None:
    boss = tenants["boss"]
    made = await assign(gateway, boss, "project-admin", "mia@lab.org", "project", "lab/nlp")
    assert made.status_code == 201, made.text
    assert (made.json()["scope"], made.json()["granted_by"]) == ("lab/nlp", "boss@lab.org")
    assert (await assign(gateway, boss, "domain-admin", "max@lab.org", "domain", "lab")).status_code == 201
    assert (await assign(gateway, boss, "monitor", "max@lab.org", "project", "lab/ml")).status_code == 201
    held = (await gateway.get("/whoami", tenants["mia"])).json()["roles"]
    assert ("project-admin", "lab/nlp") in {(one["role"], one["scope"]) for one in held}
    shown = (await gateway.get("/role/project-admin/assignment", boss)).json()
    assert [one["user"] for one in shown["items"]] == ["lead@lab.org", "mia@lab.org"]
    assert (await gateway.get("/assignment", tenants["dean"])).json()["total"] == 0
    assert (await gateway.ask("DELETE", f"/role/assignment/{made.json()['id']}", who=boss)).status_code == 204


async def test_nobody_hands_out_a_role_wider_than_his_own(gateway: Gateway, tenants: Tenants) -> None:
    await role(gateway, "fixer", "session:read", "agent:update")
    await role(gateway, "looker", "session:read")
    boss = tenants["boss"]
    refused(await assign(gateway, boss, "superadmin", "boss@lab.org", "global"), 403, "forbidden")
    refused(await assign(gateway, boss, "looker", "boss@lab.org", "global"), 403, "forbidden")
    refused(await assign(gateway, boss, "looker", "boss@lab.org", "domain", "uni"), 404, "unknown-domain")
    refused(await assign(gateway, boss, "looker", "boss@lab.org", "project", "uni/art"), 404, "unknown-project")
    refused(await assign(gateway, boss, "looker", "boss@lab.org", "user", "uma@uni.org"), 404, "unknown-user")
    refused(await assign(gateway, boss, "looker", "uma@uni.org", "domain", "lab"), 404, "unknown-user")
    for name in ("lead", "mia"):
        refused(await assign(gateway, tenants[name], "looker", "mia@lab.org", "project", "lab/ml"), 403, "forbidden")


async def test_whoever_may_assign_gives_nothing_that_he_lacks(gateway: Gateway, tenants: Tenants) -> None:
    await role(gateway, "giver", "role:assign", "user:read", "session:read")
    await role(gateway, "stopper", "session:delete")
    await role(gateway, "looker", "session:read")
    giver = await tenants.user("giver")
    await tenants.give("giver", "giver@lab.org", "project", "lab/ml")
    problem = refused(await assign(gateway, giver, "stopper", "giver@lab.org", "project", "lab/ml"), 403, "exceeds-own")
    assert problem["data"]["missing"] == ["session:delete"]
    refused(await assign(gateway, giver, "project-admin", "mia@lab.org", "project", "lab/ml"), 403, "exceeds-own")
    assert (await assign(gateway, giver, "looker", "mia@lab.org", "project", "lab/ml")).status_code == 201
    kept = await tenants.give("stopper", "mia@lab.org", "project", "lab/ml")
    refused(await gateway.ask("DELETE", f"/role/assignment/{kept}", who=giver), 403, "exceeds-own")


async def test_whoever_rules_a_project_does_not_rule_its_members_elsewhere(gateway: Gateway, tenants: Tenants) -> None:
    """A role held for a user reaches what that user has in all of its projects."""
    await role(gateway, "giver", "role:assign", "user:read", "session:read")
    await role(gateway, "looker", "session:read")
    giver = await tenants.user("giver")
    await tenants.give("giver", "giver@lab.org", "project", "lab/ml")
    refused(await assign(gateway, giver, "looker", "giver@lab.org", "user", "max@lab.org"), 403, "forbidden")


async def test_whoever_holds_a_role_for_a_time_gives_it_for_no_longer(gateway: Gateway, tenants: Tenants) -> None:
    deputy = await tenants.user("deputy")
    await tenants.give("domain-admin", "deputy@lab.org", "domain", "lab", expires_at=LATER)
    refused(await assign(gateway, deputy, "domain-admin", "deputy@lab.org", "domain", "lab"), 403, "exceeds-own")
    later = (LATER + timedelta(hours=1)).isoformat()
    again = await assign(gateway, deputy, "domain-admin", "mia@lab.org", "domain", "lab", expires_at=later)
    refused(again, 403, "exceeds-own")
    refused(await gateway.ask("PATCH", "/user/deputy@lab.org", {"role": "admin"}, deputy), 403, "exceeds-own")
    sooner = (LATER - timedelta(hours=1)).isoformat()
    fine = await assign(gateway, deputy, "domain-admin", "mia@lab.org", "domain", "lab", expires_at=sooner)
    assert fine.status_code == 201, fine.text


@pytest.mark.parametrize(
    ("name", "kind", "scope", "more", "status", "code"),
    [
        ("superadmin", "domain", "lab", {}, 400, "wrong-scope"),
        ("domain-admin", "project", "lab/ml", {}, 400, "wrong-scope"),
        ("none", "global", "", {}, 404, "unknown-role"),
        ("monitor", "global", "lab", {}, 400, "invalid-api-params"),
        ("monitor", "domain", "", {}, 404, "unknown-domain"),
        ("monitor", "galaxy", "", {}, 400, "invalid-api-params"),
        ("monitor", "global", "", {"expires_at": "2020-01-01T00:00:00Z"}, 400, "invalid-api-params"),
        ("monitor", "global", "", {"granted_by": "somebody"}, 400, "invalid-api-params"),
        ("monitor", "project", "lab/ml' OR '1'='1", {}, 404, "unknown-project"),
    ],
    ids=str,
)
async def test_what_can_not_be_held_is_refused(
    gateway: Gateway, tenants: Tenants, name: str, kind: str, scope: str, more: dict[str, Any], status: int, code: str
) -> None:
    refused(await assign(gateway, gateway.root, name, "mia@lab.org", kind, scope, **more), status, code)


async def test_the_same_role_is_held_once_however_often_it_is_given(gateway: Gateway, tenants: Tenants) -> None:
    answers = await asyncio.gather(
        *(assign(gateway, gateway.root, "monitor", "mia@lab.org", "domain", "lab") for _ in range(3))
    )
    assert {one.status_code for one in answers} == {201}
    assert len({one.json()["id"] for one in answers}) == 1


async def test_a_role_that_has_ended_permits_nothing(gateway: Gateway, tenants: Tenants) -> None:
    await tenants.give("domain-admin", "mia@lab.org", "domain", "lab", expires_at=LATER)
    assert (await tenants.principal("mia@lab.org")).reach("user:update")
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE role_assignments SET expires_at = now()"))
    assert not (await tenants.principal("mia@lab.org")).reach("user:update")


async def test_what_was_never_given_is_not_revoked(gateway: Gateway) -> None:
    refused(await gateway.ask("DELETE", "/role/assignment/none"), 404, "unknown-assignment")
    refused(
        await gateway.ask("DELETE", "/role/assignment/00000000-0000-4000-8000-00000000dead"), 404, "unknown-assignment"
    )
