"""Policies, limits and grants over HTTP, and who administers them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from moorage.db import tenancy
from moorage.domain.node import Device
from moorage.seal import Seal
from tests.support.builders import KEYS
from tests.support.gateway import PASSWORD, Gateway, basic

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
