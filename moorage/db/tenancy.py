"""The first users: the administrator of a new installation, and whoever a test needs."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage import passwords
from moorage.db import keypairs, users
from moorage.db.engine import connect
from moorage.domain.ids import checked_email
from moorage.seal import Seal

DEFAULT_PROJECT = "00000000-0000-4000-8000-000000000001"


async def ensure_admin(database_url: str, payload_keys: str, admin: Mapping[str, str]) -> bool:
    """A superadmin with that `email`, `password`, `access_key` and `secret_key`; False if there is one already."""
    engine = connect(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT 1 FROM users WHERE role = 'superadmin' LIMIT 1"))
            if found.first() is not None:
                return False
        key_pair = (admin["access_key"], admin["secret_key"])
        seal = Seal(payload_keys)
        await create_user(engine, seal, admin["email"], admin["password"], role="superadmin", key_pair=key_pair)
        return True
    finally:
        await engine.dispose()


async def create_user(
    engine: AsyncEngine,
    seal: Seal,
    email: str,
    password: str,
    *,
    role: str = "user",
    key_pair: tuple[str, str] | None = None,
    policy: str = "",
) -> tuple[str, str]:
    """A user of the default project with one key pair, a new one if none is given: (access key, secret key).

    `policy` is the key pair's; superadmins have `unlimited` and others `default` if none is named.
    """
    new = users.NewUser(email=checked_email(email), domain="default", role=role)
    digest = await passwords.hashed(password)
    async with engine.begin() as connection:
        values = {"email": new.email, "hash": digest, "project": DEFAULT_PROJECT, "networks": []}
        user_id = await users.insert(connection, new, values)
        await connection.execute(
            text("INSERT INTO memberships (user_id, project_id) VALUES (:user, :project)"),
            {"user": user_id, "project": DEFAULT_PROJECT},
        )
        made = await keypairs.insert(connection, seal, user_id, role, key_pair, policy=policy)
    return made["access_key"], made["secret_key"]
