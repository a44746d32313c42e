"""Users and their keys."""

from __future__ import annotations

from collections.abc import Mapping

from argon2 import PasswordHasher
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import connect
from moorage.domain.ids import new_access_key, new_id, new_secret_key
from moorage.seal import Seal

DEFAULT_PROJECT = "00000000-0000-4000-8000-000000000001"
DEFAULT_RATE_LIMIT = 10_000
_hasher = PasswordHasher()


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
    user_id = new_id()
    access_key, secret_key = key_pair or (new_access_key(), new_secret_key())
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO users (id, email, password_hash, role, domain, project_id)"
                " VALUES (:id, :email, :hash, :role, 'default', :project)"
            ),
            {
                "id": user_id,
                "email": email,
                "hash": _hasher.hash(password),
                "role": role,
                "project": DEFAULT_PROJECT,
            },
        )
        await connection.execute(
            text("INSERT INTO memberships (user_id, project_id) VALUES (:user, :project)"),
            {"user": user_id, "project": DEFAULT_PROJECT},
        )
        await connection.execute(
            text(
                "INSERT INTO keypairs (access_key, user_id, secret, policy, rate_limit)"
                " VALUES (:key, :user, :secret, :policy, :rate_limit)"
            ),
            {
                "key": access_key,
                "user": user_id,
                "secret": seal.seal(secret_key.encode()),
                "policy": policy or ("unlimited" if role == "superadmin" else "default"),
                "rate_limit": None if role == "superadmin" else DEFAULT_RATE_LIMIT,
            },
        )
    return access_key, secret_key
