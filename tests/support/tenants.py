"""Two domains with people of each kind, made through the same functions as every other."""

from __future__ import annotations

from typing import Any

from moorage.db import assignments, domains, principals, projects, users
from moorage.domain.permissions import ScopeKind
from moorage.domain.tenancy import Principal
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import Gateway, basic

Headers = dict[str, str]


class Tenants:
    """`lab` with projects ml and nlp, `uni` with project art; each user's keys by its name."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.keys: dict[str, Headers] = {}
        self.access_keys: dict[str, str] = {}

    def __getitem__(self, name: str) -> Headers:
        return self.keys[name]

    async def principal(self, email: str) -> Principal:
        found = await principals.by_email(self.gateway.engine, email)
        assert found is not None, email
        return found[0]

    async def root(self) -> Principal:
        return await self.principal("root@example.org")

    async def user(self, name: str, domain: str = "lab", *projects: str, **more: Any) -> Headers:
        new = users.NewUser(email=f"{name}@{domain}.org", domain=domain, projects=projects or ("ml",), **more)
        made = await users.create(self.gateway.engine, Seal(KEYS), await self.root(), new)
        self.access_keys[name] = made["keypair"]["access_key"]
        self.keys[name] = basic(made["keypair"]["access_key"], made["keypair"]["secret_key"])
        return self.keys[name]

    async def give(self, role: str, user: str, kind: str, scope: str = "", **more: Any) -> str:
        made = await assignments.assign(
            self.gateway.engine, await self.root(), role, user=user, scope_kind=ScopeKind(kind), scope=scope, **more
        )
        return str(made["id"])


async def settled(gateway: Gateway) -> Tenants:
    """lab: boss (admin), lead (admin of project ml), mia, max (both projects); uni: dean (admin), uma."""
    tenants = Tenants(gateway)
    root = await tenants.root()
    for domain, names in {"lab": ("ml", "nlp"), "uni": ("art",)}.items():
        await domains.create(gateway.engine, root, domain)
        for name in names:
            await projects.create(gateway.engine, root, domain, name)
    await tenants.user("boss", role="admin")
    await tenants.user("lead")
    await tenants.user("mia")
    await tenants.user("max", "lab", "ml", "nlp")
    await tenants.user("dean", "uni", "art", role="admin")
    await tenants.user("uma", "uni", "art")
    await tenants.give("project-admin", "lead@lab.org", "project", "lab/ml")
    return tenants
