"""Asking as somebody else: who may, as whom, and that both names stand in what is written."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from moorage.db import tenancy
from moorage.db.audit import Asking, asking
from moorage.domain.errors import Forbidden
from moorage.domain.ids import new_id
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import PASSWORD, Gateway, basic, bearer, refused
from tests.support.signed import a_connection, as_backendai, memory_of


def for_(email: str, name: str = "X-Moorage-Act-As") -> dict[str, str]:
    return {name: f"{email}@example.org"}


@dataclass
class Cast:
    """Users by the first part of their addresses, with their keys."""

    gateway: Gateway
    keys: dict[str, dict[str, str]] = field(default_factory=dict)

    async def add(self, name: str, *, role: str = "user", domain: str = "default") -> None:
        address = f"{name}@example.org"
        self.keys[name] = basic(
            *await tenancy.create_user(self.gateway.engine, Seal(KEYS), address, PASSWORD, role=role)
        )
        if domain != "default":
            await self.sql("INSERT INTO domains (name) VALUES (:domain) ON CONFLICT DO NOTHING", domain=domain)
            project = new_id()
            await self.sql("INSERT INTO projects (id, domain, name) VALUES (:p, :d, 'theirs')", p=project, d=domain)
            await self.sql("DELETE FROM memberships m USING users u WHERE m.user_id = u.id AND email = :a", a=address)
            await self.sql(
                "UPDATE users SET domain = :domain, project_id = :p WHERE email = :a",
                domain=domain,
                p=project,
                a=address,
            )

    async def grant(self, name: str, role: str, kind: str, scope: str) -> None:
        await self.sql(
            "INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by)"
            " SELECT :id, id, :role, :kind, :scope, '' FROM users WHERE email = :a",
            id=new_id(), role=role, kind=kind, scope=scope, a=f"{name}@example.org",
        )  # fmt: skip

    async def sql(self, statement: str, **values: object) -> None:
        async with self.gateway.engine.begin() as connection:
            await connection.execute(text(statement), values)


@pytest.fixture
async def cast(gateway: Gateway) -> Cast:
    found = Cast(gateway, {"ada": gateway.ada, "bob": gateway.bob, "root": gateway.root})
    await found.add("rita", role="admin")
    return found


async def test_a_superadmin_asks_as_a_user_with_that_users_rights(gateway: Gateway) -> None:
    await gateway.submitted(gateway.bob)
    session = await gateway.submitted(gateway.root | for_("ada"))
    assert session["user"] == "ada@example.org"
    assert (await gateway.get("/session", gateway.root | for_("ada"))).json()["total"] == 1
    refused(await gateway.http.post("/agent/n1/drain", headers=gateway.root | for_("ada")), 403, "forbidden")


async def test_both_names_are_known_to_whatever_is_written(gateway: Gateway) -> None:
    gate = gateway.app.state.parts.authentication
    root = await gate.principal(a_connection(gateway.root))
    for _ in range(2):  # the second is remembered
        who = await gate.principal(a_connection(gateway.root | for_("ada")))
        assert (who.email, who.actor, who.actor_id) == ("ada@example.org", "root@example.org", root.user_id)
        assert who.credential == root.credential
        assert who.credential.startswith("keypair:AKIA")
        assert who.named == "user:root@example.org as ada@example.org"
        assert not who.sees_all


async def test_backend_ais_header_says_the_same(gateway: Gateway) -> None:
    headers = as_backendai(gateway.root) | for_("ada", "X-BackendAI-Act-As")
    assert (await gateway.http.get("/session", headers=headers)).status_code == 200
    both = for_("ada", "X-BackendAI-Act-As") | for_("bob")
    refused(await gateway.get("/session", gateway.root | both), 400, "invalid-auth-params")
    same = for_("ada", "X-BackendAI-Act-As") | for_("ada")
    assert (await gateway.get("/session", gateway.root | same)).status_code == 200


WHO_AS_WHOM = [
    ("root", "ada", ""),
    ("root", "rita", ""),
    ("root", "mona", ""),
    ("root", "far", ""),
    ("root", "nobody", "unknown-user"),
    ("rita", "ada", ""),
    ("rita", "root", "forbidden"),
    ("rita", "mona", "forbidden"),
    ("rita", "far", "unknown-user"),
    ("rita", "guest", "forbidden"),
    ("rita", "off", "forbidden"),
    ("mona", "ada", "forbidden"),
    ("ada", "bob", "unknown-user"),
    ("ada", "nobody", "unknown-user"),
    ("ada", "ada", "forbidden"),
    ("paul", "ada", "forbidden"),
    ("paul", "far", "unknown-user"),
]


async def test_who_may_ask_as_whom(cast: Cast) -> None:
    await cast.add("far", domain="elsewhere")
    await cast.add("mona", role="monitor")
    for name in ("paul", "guest", "off"):
        await cast.add(name)
    await cast.grant("paul", "project-admin", "project", tenancy.DEFAULT_PROJECT)
    await cast.grant("guest", "project-admin", "domain", "elsewhere")
    await cast.sql("UPDATE users SET status = 'inactive' WHERE email = 'off@example.org'")
    found = []
    for who, whom, _ in WHO_AS_WHOM:
        answer = await cast.gateway.get("/session", cast.keys[who] | for_(whom))
        found.append((who, whom, "" if answer.status_code == 200 else answer.json()["code"]))
    assert found == WHO_AS_WHOM


async def test_a_token_acts_as_somebody_only_if_it_permits_that(gateway: Gateway) -> None:
    async def token(name: str, *permissions: str) -> dict[str, str]:
        body = {"name": name, "permissions": permissions}
        return bearer((await gateway.ask("POST", "/token", body)).json()["token"])

    await gateway.submitted()
    reads = await token("reads", "session:*", "user:read")
    refused(await gateway.get("/session", reads | for_("ada")), 403, "forbidden")
    acts = await token("acts", "session:read", "user:read", "user:act-as")
    assert (await gateway.get("/session", acts | for_("ada"))).json()["total"] == 1
    answer = await gateway.submit(acts | for_("ada"))
    refused(answer, 403, "forbidden")  # the token may not, so neither may ada through it


async def test_nobody_makes_a_token_for_whom_he_acts_as(gateway: Gateway) -> None:
    body = {"name": "mine", "permissions": ["*:*"]}
    refused(await gateway.ask("POST", "/token", body, gateway.root | for_("ada")), 403, "forbidden")


async def test_an_actors_own_addresses_count(gateway: Gateway, cast: Cast) -> None:
    await cast.sql("UPDATE users SET allowed_client_ip = '{10.0.0.1}' WHERE email = 'ada@example.org'")
    assert (await gateway.get("/session", cast.keys["rita"] | for_("ada"))).status_code == 200
    await cast.sql("UPDATE users SET allowed_client_ip = '{10.0.0.1}' WHERE email = 'root@example.org'")
    refused(await gateway.get("/session", gateway.root | for_("ada")), 403, "address-not-allowed")


# ---- where one asks from


async def test_whoever_has_a_list_of_addresses_asks_from_these_alone(gateway: Gateway, cast: Cast) -> None:
    allowed = {"{}": 200, "{127.0.0.1}": 200, "{10.0.0.0/8,127.0.*.*}": 200, "{10.0.0.0/8}": 403, "{::1}": 403}
    for addresses, status in allowed.items():
        await cast.sql(f"UPDATE users SET allowed_client_ip = '{addresses}' WHERE email = 'ada@example.org'")
        memory_of(gateway.app).forget()
        for _ in range(2):  # the second is remembered
            answer = await gateway.get("/session")
            assert answer.status_code == status, addresses
    assert refused(answer, 403, "address-not-allowed")["data"] == {"address": "127.0.0.1"}
    assert (await gateway.get("/session", gateway.bob)).status_code == 200


async def test_the_address_that_trusted_proxies_name_is_the_one_that_counts(gateway: Gateway, cast: Cast) -> None:
    await cast.sql("UPDATE users SET allowed_client_ip = '{10.0.0.7}' WHERE email = 'ada@example.org'")
    gate = gateway.app.state.parts.authentication
    for address in ("10.0.0.7", "10.0.0.8"):
        token = asking.set(Asking(address=address))
        try:
            who = await gate.principal(a_connection(gateway.ada))
            assert (who.email, address) == ("ada@example.org", "10.0.0.7")
        except Forbidden as refusal:
            assert refusal.data == {"address": "10.0.0.8"}
        finally:
            asking.reset(token)
