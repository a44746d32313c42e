"""Users over HTTP: who may make, change, delete and purge whom."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import text

from moorage.db import audit, principals, users
from moorage.domain.errors import Conflict
from moorage.domain.tenancy import Principal
from tests.support.gateway import Gateway, basic, refused
from tests.support.tenants import Tenants


async def emails(gateway: Gateway, path: str, who: dict[str, str]) -> list[str]:
    answer = await gateway.ask("GET", path, who=who)
    assert answer.status_code == 200, answer.text
    return [one["email"].split("@")[0] for one in answer.json()["items"]]


async def new(gateway: Gateway, who: dict[str, str] | None = None, **wish: Any) -> Any:
    body = {"email": "new@lab.org", "domain": "lab", "projects": ["ml"], **wish}
    return await gateway.ask("POST", "/user", body, who)


async def count(gateway: Gateway, query: str) -> int:
    async with gateway.engine.connect() as connection:
        return int((await connection.execute(text(query))).scalar_one())


async def test_a_new_user_gets_a_key_pair_whose_secret_is_shown_once(gateway: Gateway, tenants: Tenants) -> None:
    made = (await new(gateway, tenants["boss"], projects=["nlp", "ml"], full_name="New User")).json()
    assert (made["project"], made["projects"], made["status"], made["has_password"]) == (
        "nlp", ["ml", "nlp"], "active", False,
    )  # fmt: skip
    keys = basic(made["keypair"]["access_key"], made["keypair"]["secret_key"])
    assert (await gateway.get("/whoami", keys)).json()["email"] == "new@lab.org"
    shown = await gateway.ask("GET", "/user/new@lab.org", who=tenants["boss"])
    assert made["keypair"]["secret_key"] not in shown.text
    written = await count(gateway, f"SELECT count(*) FROM audit WHERE record LIKE '%{made['keypair']['secret_key']}%'")
    assert written == 0


async def test_a_user_without_a_key_pair_and_with_a_password_logs_in(gateway: Gateway, tenants: Tenants) -> None:
    made = (await new(gateway, password="long enough words", keypair=False, email="New@LAB.org")).json()
    assert (made["email"], made["keypair"], made["has_password"]) == ("new@lab.org", None, True)
    answer = await gateway.http.post("/auth/login", json={"email": "new@lab.org", "password": "long enough words"})
    assert answer.status_code == 200, answer.text


LONG = "a" * 65
NO_ADDRESSES = [
    "", "x", "@lab.org", "a@", "a b@lab.org", "\u00e1@lab.org", "\u212aim@lab.org", "a@b@c", "a/b@lab.org",
    "a@lab..org", f"{LONG}@lab.org", "a@lab.org\n", "a:b@lab.org",
]  # fmt: skip


@pytest.mark.parametrize("email", NO_ADDRESSES, ids=ascii)
async def test_what_is_no_address_is_refused(gateway: Gateway, tenants: Tenants, email: str) -> None:
    refused(await new(gateway, email=email), 400, "invalid-email")


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({"email": "a\0b@lab.org"}, 400, "invalid-api-params"),
        ({"role": "emperor"}, 400, "invalid-api-params"),
        ({"status": "deleted"}, 400, "invalid-api-params"),
        ({"is_superadmin": True}, 400, "invalid-api-params"),
        ({"id": "00000000-0000-4000-8000-000000000001"}, 400, "invalid-api-params"),
        ({"password_hash": "x"}, 400, "invalid-api-params"),
        ({"projects": []}, 400, "invalid-api-params"),
        ({"projects": ["none"]}, 404, "unknown-project"),
        ({"domain": "none"}, 404, "unknown-domain"),
        ({"policy": "none"}, 400, "unknown-policy"),
        ({"allowed_client_ip": ["everywhere"]}, 400, "malformed-address"),
        ({"email": "MIA@lab.org"}, 409, "user-exists"),
    ],
    ids=str,
)
async def test_a_malformed_user_is_refused_and_nothing_stays(
    gateway: Gateway, tenants: Tenants, wish: dict[str, Any], status: int, code: str
) -> None:
    before = await count(gateway, "SELECT count(*) FROM users")
    refused(await new(gateway, **wish), status, code)
    assert await count(gateway, "SELECT count(*) FROM users") == before


async def test_of_two_who_make_the_same_user_at_once_one_wins(gateway: Gateway, tenants: Tenants) -> None:
    answers = await asyncio.gather(*(new(gateway, email=one) for one in ("new@lab.org", "NEW@lab.org", "new@LAB.org")))
    assert sorted(one.status_code for one in answers) == [201, 409, 409]
    assert await count(gateway, "SELECT count(*) FROM keypairs k JOIN users u ON u.id = k.user_id"
                                " WHERE u.email = 'new@lab.org'") == 1  # fmt: skip


async def test_lists_hold_whom_one_may_see(gateway: Gateway, tenants: Tenants) -> None:
    assert await emails(gateway, "/user?domain=lab", gateway.root) == ["boss", "lead", "max", "mia"]
    assert await emails(gateway, "/user", tenants["boss"]) == ["boss", "lead", "max", "mia"]
    assert await emails(gateway, "/user?domain=uni", tenants["boss"]) == []
    assert await emails(gateway, "/user?project=nlp", tenants["boss"]) == ["max"]
    assert await emails(gateway, "/user", tenants["lead"]) == ["boss", "lead", "max", "mia"]
    assert await emails(gateway, "/user", tenants["mia"]) == ["mia"]
    assert await emails(gateway, "/user?email=MA", tenants["boss"]) == ["max"]
    assert await emails(gateway, "/user?email=%25", gateway.root) == []
    page = (await gateway.get("/user", gateway.root, limit="2", offset="1", domain="lab")).json()
    assert (page["total"], [one["email"] for one in page["items"]]) == (4, ["lead@lab.org", "max@lab.org"])
    assert (await gateway.get("/user", gateway.root, limit="101")).status_code == 400


TOUCHES: list[tuple[str, str, Any]] = [
    ("GET", "/user/{}", None),
    ("PATCH", "/user/{}", {"name": "x"}),
    ("DELETE", "/user/{}", None),
    ("DELETE", "/user/{}?dry_run=true", None),
    ("POST", "/user/{}/purge", None),
    ("POST", "/user/{}/password", {"password": "something long"}),
    ("POST", "/user/{}/unlock", None),
    ("DELETE", "/user/{}/totp", None),
]


@pytest.mark.parametrize(("method", "path", "body"), TOUCHES, ids=lambda one: str(one))
async def test_a_user_of_another_domain_does_not_exist(
    gateway: Gateway, tenants: Tenants, method: str, path: str, body: Any
) -> None:
    for stranger in ("uma@uni.org", "root@example.org", "nobody@lab.org"):
        answer = await gateway.ask(method, path.format(stranger), body, tenants["boss"])
        refused(answer, 404, "unknown-user")
    assert stranger in answer.json()["title"]


@pytest.mark.parametrize(("method", "path", "body"), TOUCHES[1:], ids=lambda one: str(one))
async def test_nobody_acts_on_whoever_holds_more(
    gateway: Gateway, tenants: Tenants, method: str, path: str, body: Any
) -> None:
    """A superadmin in the domain, and a user who was given a role beyond it."""
    await tenants.user("chief", role="superadmin")
    await tenants.user("watch")
    await tenants.give("monitor", "watch@lab.org", "global")
    for above in ("chief@lab.org", "watch@lab.org"):
        refused(await gateway.ask(method, path.format(above), body, tenants["boss"]), 403, "exceeds-own")
    refused(await gateway.ask("POST", "/keypair", {"user": "chief@lab.org"}, tenants["boss"]), 403, "exceeds-own")


@pytest.mark.parametrize(("method", "path", "body"), TOUCHES[1:], ids=lambda one: str(one))
async def test_users_change_nobody_and_not_what_they_were_given(
    gateway: Gateway, tenants: Tenants, method: str, path: str, body: Any
) -> None:
    for name in ("mia", "lead"):
        for target in ("mia@lab.org", "max@lab.org", "lead@lab.org"):
            refused(await gateway.ask(method, path.format(target), body, tenants[name]), 403, "forbidden")


@pytest.mark.parametrize("rank", ["superadmin", "monitor"])
async def test_an_administrator_of_a_domain_makes_nobody_more_than_himself(
    gateway: Gateway, tenants: Tenants, rank: str
) -> None:
    boss = tenants["boss"]
    refused(await new(gateway, boss, role=rank), 403, "exceeds-own")
    refused(await gateway.ask("PATCH", "/user/mia@lab.org", {"role": rank}, boss), 403, "exceeds-own")
    refused(await gateway.ask("PATCH", "/user/boss@lab.org", {"role": rank}, boss), 403, "exceeds-own")
    assert (await gateway.ask("PATCH", "/user/mia@lab.org", {"role": "admin"}, boss)).status_code == 200
    assert (await gateway.ask("PATCH", "/user/mia@lab.org", {"role": "user"}, boss)).status_code == 200
    refused(await new(gateway, boss, domain="uni", projects=["art"]), 404, "unknown-domain")


async def test_a_custom_role_that_changes_users_makes_no_administrators(gateway: Gateway, tenants: Tenants) -> None:
    wish = {"name": "helpdesk", "permissions": ["user:*", "domain:read", "project:read"]}
    assert (await gateway.ask("POST", "/role", wish)).status_code == 201
    desk = await tenants.user("desk")
    await tenants.give("helpdesk", "desk@lab.org", "domain", "lab")
    assert (await gateway.ask("PATCH", "/user/mia@lab.org", {"name": "Mia"}, desk)).status_code == 200
    refused(await gateway.ask("PATCH", "/user/mia@lab.org", {"role": "admin"}, desk), 403, "exceeds-own")
    refused(await gateway.ask("PATCH", "/user/desk@lab.org", {"role": "admin"}, desk), 403, "exceeds-own")
    refused(
        await gateway.ask("POST", "/user/boss@lab.org/password", {"password": "mine now"}, desk), 403, "exceeds-own"
    )


async def test_whoever_adds_members_does_not_rule_them(gateway: Gateway, tenants: Tenants) -> None:
    """A role that changes users of a project reaches those alone who belong to no other project."""
    await gateway.ask("POST", "/role", {"name": "tutor", "permissions": ["user:read", "user:update", "project:*"]})
    tutor = await tenants.user("tutor")
    await tenants.give("tutor", "tutor@lab.org", "project", "lab/ml")
    assert (await gateway.ask("PATCH", "/user/mia@lab.org", {"name": "Mia"}, tutor)).status_code == 200
    refused(await gateway.ask("PATCH", "/user/max@lab.org", {"name": "Max"}, tutor), 403, "forbidden")


async def test_one_changes_of_oneself_what_is_ones_own(gateway: Gateway, tenants: Tenants) -> None:
    wish = {"full_name": "Max M.", "project": "nlp"}
    changed = (await gateway.ask("PATCH", "/whoami", wish, tenants["max"])).json()
    assert (changed["full_name"], changed["project"]) == ("Max M.", "nlp")
    for forbidden in ({"role": "superadmin"}, {"status": "active"}, {"policy": "x"}, {"domain": "uni"}, {"email": "x"}):
        refused(await gateway.ask("PATCH", "/whoami", forbidden, tenants["max"]), 400, "invalid-api-params")
    refused(await gateway.ask("PATCH", "/whoami", {"project": "art"}, tenants["max"]), 400, "unknown-project")


async def test_whoami_tells_what_one_holds_and_where(gateway: Gateway, tenants: Tenants) -> None:
    shown = (await gateway.get("/whoami", tenants["lead"])).json()
    held = {(one["role"], one["scope_kind"], one["scope"]) for one in shown["roles"]}
    assert held == {
        ("user", "user", "lead@lab.org"), ("member", "project", "lab/ml"), ("project-admin", "project", "lab/ml"),
    }  # fmt: skip
    assert (shown["email"], shown["domain"], shown["active_projects"]) == ("lead@lab.org", "lab", ["ml"])
    assert shown["access_key"] == tenants.access_keys["lead"]
    assert "project:update" in shown["permissions"]
    assert "user:update" not in shown["permissions"]
    root = (await gateway.get("/whoami", gateway.root)).json()
    assert ("superadmin", "global") in {(one["role"], one["scope_kind"]) for one in root["roles"]}


async def test_nobody_locks_himself_out_by_addresses(gateway: Gateway, tenants: Tenants) -> None:
    mia = await tenants.principal("mia@lab.org")
    before: Any = {"id": mia.user_id, "email": mia.email, "domain": "lab", "projects": ["ml"]}
    token = audit.asking.set(audit.Asking(address="192.168.1.7"))
    try:
        async with gateway.engine.begin() as connection:
            with pytest.raises(Conflict, match="lock yourself out"):
                await users.set_columns(connection, mia, before, {"allowed_client_ip": ["10.0.0.0/8"]})
            await users.set_columns(connection, mia, before, {"allowed_client_ip": ["192.168.0.0/16"]})
    finally:
        audit.asking.reset(token)
    assert (await gateway.ask("GET", "/user/mia@lab.org")).json()["allowed_client_ip"] == ["192.168.0.0/16"]


async def test_each_network_is_kept_once(gateway: Gateway, tenants: Tenants) -> None:
    wish = {"allowed_client_ip": ["10.0.0.0/8", " 10.0.0.0/8", "2001:db8::1", "10.1.*.*"]}
    changed = await gateway.ask("PATCH", "/user/mia@lab.org", wish)
    assert changed.json()["allowed_client_ip"] == ["10.0.0.0/8", "2001:db8::1", "10.1.*.*"]


async def test_a_password_that_was_set_must_be_changed_and_ends_log_ins(gateway: Gateway, tenants: Tenants) -> None:
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO logins (id, user_id, refresh_hash, expires_at)"
                " SELECT gen_random_uuid(), id, '', now() + interval '1 day' FROM users WHERE email = 'mia@lab.org'"
            )
        )
        await connection.execute(
            text(
                "UPDATE users SET failed_logins = 9, locked_until = now() + interval '1 h' WHERE email = 'mia@lab.org'"
            )
        )
    boss = tenants["boss"]
    answer = await gateway.ask("POST", "/user/mia@lab.org/password", {"password": "another one"}, boss)
    assert answer.status_code == 204, answer.text
    user = (await gateway.ask("GET", "/user/mia@lab.org")).json()
    assert (user["has_password"], user["need_password_change"], user["failed_logins"]) == (True, True, 0)
    assert await count(gateway, "SELECT count(*) FROM logins WHERE revoked_at IS NULL") == 0
    assert (await gateway.ask("POST", "/user/mia@lab.org/password", {"password": None}, boss)).status_code == 204
    assert (await gateway.ask("GET", "/user/mia@lab.org")).json()["has_password"] is False
    assert (await gateway.ask("POST", "/user/mia@lab.org/unlock", who=boss)).status_code == 204
    assert (await gateway.ask("DELETE", "/user/mia@lab.org/totp", who=boss)).status_code == 204
    for body in ({"password": "mine"},):
        refused(await gateway.ask("POST", "/user/boss@lab.org/password", body, boss), 403, "not-on-oneself")
    refused(await gateway.ask("DELETE", "/user/boss@lab.org/totp", who=boss), 403, "not-on-oneself")
    records = await _records(gateway, "mia@lab.org")
    assert {"password": "set"} in [one["after"] for one in records]
    assert "another one" not in json.dumps(records)


async def test_whoever_is_not_active_or_whose_domain_is_not_gets_in_no_more(gateway: Gateway, tenants: Tenants) -> None:
    key = tenants.access_keys["mia"]
    assert await principals.by_access_key(gateway.engine, key) is not None
    await gateway.ask("PATCH", "/user/mia@lab.org", {"status": "inactive"})
    assert await principals.by_access_key(gateway.engine, key) is None
    await gateway.ask("PATCH", "/user/mia@lab.org", {"status": "active"})
    assert await principals.by_access_key(gateway.engine, key) is not None
    await gateway.ask("PATCH", "/domain/lab", {"is_active": False})
    assert await principals.by_access_key(gateway.engine, key) is None
    assert await principals.by_email(gateway.engine, "boss@lab.org") is None


async def test_the_last_superadmin_stays(gateway: Gateway, tenants: Tenants) -> None:
    for method, body in (("PATCH", {"role": "user"}), ("PATCH", {"status": "inactive"}), ("DELETE", None)):
        refused(await gateway.ask(method, "/user/root@example.org", body), 409, "last-superadmin")
    assert (await gateway.ask("PATCH", "/user/root@example.org", {"name": "Root"})).status_code == 200


async def test_of_two_superadmins_who_demote_each_other_at_once_one_stays(gateway: Gateway, tenants: Tenants) -> None:
    chief = await tenants.user("chief", role="superadmin")
    answers = await asyncio.gather(
        gateway.ask("PATCH", "/user/root@example.org", {"role": "user"}, chief),
        gateway.ask("PATCH", "/user/chief@lab.org", {"role": "user"}, gateway.root),
    )
    assert sorted(one.status_code for one in answers) == [200, 409]
    assert await count(gateway, "SELECT count(*) FROM users WHERE role = 'superadmin'") == 1
    assert await count(gateway, "SELECT count(*) FROM keypairs WHERE policy = 'unlimited' OR rate_limit IS NULL") == 1


async def test_a_user_with_live_sessions_is_deleted_by_force_only(gateway: Gateway, tenants: Tenants) -> None:
    session = await gateway.submitted(tenants["mia"])
    owns = (await gateway.ask("DELETE", "/user/mia@lab.org?dry_run=true")).json()["owns"]
    assert owns["live_sessions"] == {"count": 1, "first": [session["name"]]}
    assert owns["keypairs"] == {"count": 1, "first": [tenants.access_keys["mia"]]}
    assert refused(await gateway.ask("DELETE", "/user/mia@lab.org"), 409, "still-owned")["data"]["owns"] == owns
    assert gateway.lives.cancelled == []
    assert (await gateway.ask("GET", "/user/mia@lab.org")).json()["status"] == "active"
    answer = await gateway.ask("DELETE", "/user/mia@lab.org?force=true")
    assert answer.status_code == 200, answer.text
    [(asked, cancel)] = gateway.lives.cancelled
    assert (asked, cancel.reason) == (session["id"], "cancelled-by-admin")
    assert await principals.by_access_key(gateway.engine, tenants.access_keys["mia"]) is None
    refused(await gateway.ask("POST", "/user/mia@lab.org/purge"), 409, "still-owned")


async def test_force_alone_ends_no_session_that_came_up_meanwhile(gateway: Gateway, tenants: Tenants) -> None:
    from moorage.db import departures

    asked = [(await gateway.submitted(tenants["mia"]))["id"]]
    await gateway.submitted(tenants["mia"])
    with pytest.raises(Conflict, match="still has 2 live"):
        root = await tenants.root()
        await departures.delete(gateway.engine, root, "mia@lab.org", forced=True, asked_to_end=asked)
    assert (await gateway.ask("GET", "/user/mia@lab.org")).json()["status"] == "active"


async def test_no_session_comes_up_behind_a_deletion(gateway: Gateway, tenants: Tenants) -> None:
    for name in ("mia", "max"):
        *_, gone = await asyncio.gather(
            *(gateway.submit(tenants[name]) for _ in range(8)), gateway.ask("DELETE", f"/user/{name}@lab.org")
        )
        live = await count(
            gateway,
            "SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id"
            f" WHERE u.email = '{name}@lab.org' AND s.status = 'PENDING'",
        )
        assert (gone.status_code, live > 0) in ((200, False), (409, True))


async def test_a_deleted_user_keeps_its_name_and_changes_no_more(gateway: Gateway, tenants: Tenants) -> None:
    assert (await gateway.ask("DELETE", "/user/mia@lab.org", who=tenants["boss"])).status_code == 200
    assert await emails(gateway, "/user?status=deleted", gateway.root) == ["mia"]
    assert "mia" not in await emails(gateway, "/user", gateway.root)
    refused(await gateway.ask("PATCH", "/user/mia@lab.org", {"status": "active"}), 409, "deleted")
    refused(await gateway.ask("POST", "/keypair", {"user": "mia@lab.org"}), 409, "deleted")
    refused(await gateway.ask("DELETE", "/user/mia@lab.org"), 409, "deleted")
    refused(await new(gateway, email="mia@lab.org"), 409, "user-exists")


async def test_a_purge_leaves_nothing_personal_and_frees_the_address(gateway: Gateway, tenants: Tenants) -> None:
    session = await gateway.submitted(tenants["mia"], env={"TOKEN": "planted"})
    await gateway.end(session["id"])
    await gateway.ask("PATCH", "/user/mia@lab.org", {"full_name": "Mia Musterfrau", "description": "Room 7"})
    await gateway.ask("PUT", "/limit/user/mia@lab.org", {"max_sessions": 5})
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO secrets (id, user_id, name, value, created_by) SELECT gen_random_uuid(), id, 'hf', 'x',"
                " 'mia@lab.org' FROM users WHERE email = 'mia@lab.org'"
            )
        )
    refused(await gateway.ask("POST", "/user/mia@lab.org/purge"), 409, "not-deleted")
    assert (await gateway.ask("DELETE", "/user/mia@lab.org")).status_code == 200
    removed = (await gateway.ask("POST", "/user/mia@lab.org/purge")).json()["removed"]
    assert (removed["secrets"], removed["email"]) == (1, True)
    refused(await gateway.ask("GET", "/user/mia@lab.org"), 404, "unknown-user")
    past = (await gateway.get(f"/session/{session['id']}", gateway.root)).json()
    assert past["user"].startswith("purged-")
    for table in ("users", "secrets", "keypairs", "limits", "grants", "tokens", "logins", "memberships"):
        left = f"SELECT count(*) FROM {table} t WHERE t::text LIKE '%mia@lab%' OR t::text LIKE '%Musterfrau%'"
        assert await count(gateway, left) == 0, table
    assert (await new(gateway, email="mia@lab.org")).status_code == 201


async def test_changes_are_told_in_the_audit_with_before_and_after(gateway: Gateway, tenants: Tenants) -> None:
    await gateway.ask("PATCH", "/user/mia@lab.org", {"name": "Mia", "role": "admin"}, tenants["boss"])
    last = (await _records(gateway, "mia@lab.org"))[-1]
    assert (last["actor"], last["operation"], last["domain"]) == ("boss@lab.org", "user:update", "lab")
    assert (last["before"], last["after"]) == ({"name": "", "role": "user"}, {"name": "Mia", "role": "admin"})


async def test_a_credential_of_few_permissions_gets_no_others(gateway: Gateway, tenants: Tenants) -> None:
    """As a personal access token would be: it neither makes a key pair nor changes where its owner may come from."""
    from dataclasses import replace

    from moorage.db import keypairs, whoami
    from moorage.domain.errors import Forbidden
    from moorage.seal import Seal
    from tests.support.builders import KEYS

    full = await tenants.principal("mia@lab.org")
    few = frozenset({"keypair:create", "keypair:read", "user:read"})
    narrow: Principal = replace(full, held=tuple(replace(one, permissions=one.permissions & few) for one in full.held))
    with pytest.raises(Forbidden):
        await keypairs.create(gateway.engine, Seal(KEYS), narrow)
    with pytest.raises(Forbidden):
        await whoami.change(gateway.engine, narrow, {"allowed_client_ip": []})
    assert (await keypairs.create(gateway.engine, Seal(KEYS), full))["secret_key"]


async def _records(gateway: Gateway, entity_id: str) -> list[dict[str, Any]]:
    async with gateway.engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT record FROM audit WHERE entity_id = :id ORDER BY seq"), {"id": entity_id}
        )
        return [json.loads(record) for record in rows.scalars()]
