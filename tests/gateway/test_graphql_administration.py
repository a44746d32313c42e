"""Administration over GraphQL: the same rules as REST, by the same functions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.test_graphql import asked, refusal
from tests.support.gateway import Gateway
from tests.support.two_domains import Tenants, settle

LIMITED = '{"cpu": "4"}'


@pytest.fixture
async def tenants(gateway: Gateway) -> Tenants:
    return await settle(gateway.engine)


async def done(gateway: Gateway, query: str, who: dict[str, str], **variables: Any) -> dict[str, Any]:
    answer = await asked(gateway, query, who, **variables)
    assert "errors" not in answer, answer
    found: dict[str, Any] = answer["data"]
    return found


async def test_a_domain_a_group_and_a_user_are_made_and_found(gateway: Gateway, tenants: Tenants) -> None:
    root = tenants["root"].headers
    await done(gateway, 'mutation { create_domain(name: "lab", props: {description: "x"}) { name } }', root)
    made = await done(gateway, 'mutation { create_group(name: "g", domain_name: "lab", props: {}) { id name } }', root)
    query = """mutation ($props: UserInput!) { create_user(email: "eve@lab.org", props: $props) {
        user { email groups role } keypair { access_key secret_key } } }"""
    user = (await done(gateway, query, root, props={"domain": "lab", "projects": ["g"]}))["create_user"]
    assert user["user"] == {"email": "eve@lab.org", "groups": ["g"], "role": "user"}
    assert user["keypair"]["secret_key"]
    found = await done(gateway, '{ groups(domain_name: "lab") { id members } }', root)
    assert found["groups"] == [{"id": made["create_group"]["id"], "members": 1}]


async def test_a_domain_admin_sees_its_own_domain_only(gateway: Gateway, tenants: Tenants) -> None:
    dora = tenants["dora"].headers
    found = await done(gateway, '{ domains { name } user(email: "dan@beta.org") { email } }', dora)
    assert found == {"domains": [{"name": "alpha"}], "user": None}
    users = await done(gateway, "{ user_list(limit: 100, offset: 0) { items { email } total_count } }", dora)
    assert {one["email"].split("@")[1] for one in users["user_list"]["items"]} == {"alpha.org"}


async def test_who_may_not_is_told_so_with_the_permission(gateway: Gateway, tenants: Tenants) -> None:
    answer = await asked(gateway, 'mutation { create_domain(name: "x", props: {}) { name } }', tenants["dora"].headers)
    error = refusal(answer)
    assert error["extensions"]["code"] == "forbidden"
    assert error["extensions"]["data"] == {"permission": "domain:create"}
    assert answer["data"] is None


async def test_nobody_promotes_himself(gateway: Gateway, tenants: Tenants) -> None:
    query = 'mutation ($mail: String!) { modify_user(email: $mail, props: {role: "superadmin"}) { role } }'
    for name in ("ada", "pia", "dora", "mona"):
        person = tenants[name]
        error = refusal(await asked(gateway, query, person.headers, mail=person.email))
        assert error["extensions"]["status"] == 403, name


async def test_a_malformed_wish_is_refused_in_rests_own_words(gateway: Gateway, tenants: Tenants) -> None:
    query = 'mutation { create_user(email: "x@alpha.org", props: {role: "king"}) { user { email } } }'
    error = refusal(await asked(gateway, query, tenants["root"].headers))
    assert error["extensions"]["code"] == "invalid-api-params"
    assert error["message"].startswith("role: ")


async def test_limits_and_grants_are_given_and_shown_with_the_use(gateway: Gateway, tenants: Tenants) -> None:
    dora = tenants["dora"].headers
    limit = 'mutation ($props: LimitInput!) { put_limit(scope: "user", name: "ada@alpha.org", props: $props) { name } }'
    await done(gateway, limit, dora, props={"max_sessions": 2, "max_slots": LIMITED})
    grant = """mutation { give_grant(scope: "user", name: "ada@alpha.org", slot: "cpu", amount: "2", ends: "2d") {
        id state amount } }"""
    given = (await done(gateway, grant, dora))["give_grant"]
    assert (given["state"], given["amount"]) == ("in-force", 2000)
    shown = await done(gateway, "{ quotas { scope sessions { used limit } slots } }", tenants["ada"].headers)
    own = next(one for one in shown["quotas"] if one["scope"] == "user")
    assert own["sessions"] == {"used": 0, "limit": 2}
    assert own["slots"] == '{"cpu": {"used": 0, "limit": 6000}}'
    await done(gateway, "mutation ($id: UUID!) { revoke_grant(id: $id) { ok } }", dora, id=given["id"])


async def test_one_sees_who_one_is_and_what_one_may(gateway: Gateway, tenants: Tenants) -> None:
    found = await done(gateway, "{ whoami { email roles { role scope } permissions } }", tenants["pia"].headers)
    roles = {(one["role"], one["scope"]) for one in found["whoami"]["roles"]}
    assert roles == {("user", "pia@alpha.org"), ("member", "alpha/one"), ("project-admin", "alpha/one")}
    assert "session:logs" in found["whoami"]["permissions"]
    assert "domain:create" not in found["whoami"]["permissions"]


async def test_more_than_ten_changes_in_one_request_are_too_many(gateway: Gateway, tenants: Tenants) -> None:
    changes = " ".join(f'a{number}: create_domain(name: "d{number}", props: {{}}) {{ name }}' for number in range(11))
    error = refusal(await asked(gateway, f"mutation {{ {changes} }}", tenants["root"].headers))
    assert "maximum cost" in error["message"]
    assert (await done(gateway, '{ domain(name: "d0") { name } }', tenants["root"].headers)) == {"domain": None}


async def test_the_audit_holds_what_was_changed_and_what_was_denied(gateway: Gateway, tenants: Tenants) -> None:
    dora, root = tenants["dora"].headers, tenants["root"].headers
    await asked(gateway, 'mutation { create_domain(name: "x", props: {}) { name } }', dora)
    await done(gateway, 'mutation { modify_domain(name: "alpha", props: {description: "y"}) { name } }', dora)
    found = (await gateway.get("/audit", root)).json()["items"]
    rows = [(one["actor"], one["operation"], one["entity_id"], one["outcome"]) for one in found]
    assert rows[:2] == [
        ("dora@alpha.org", "domain:update", "alpha", "success"),
        ("dora@alpha.org", "domain:create", "x", "denied"),
    ]
