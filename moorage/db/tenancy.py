"""Users and their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import connect
from moorage.domain.ids import new_access_key, new_id, new_secret_key
from moorage.seal import Seal

DEFAULT_PROJECT = "00000000-0000-4000-8000-000000000001"
_hasher = PasswordHasher()
# Verified for an unknown user, so that it takes as long as a wrong password.
_NOBODY = _hasher.hash("nobody")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    user_id: str
    email: str
    role: str
    domain: str
    project_id: str
    project: str = ""
    access_key: str = ""  # the one used, or the oldest active one after a log-in with a password

    @property
    def sees_all(self) -> bool:
        return self.role == "superadmin"


_PRINCIPAL = (
    "u.id AS user_id, u.email, u.role, u.domain, u.project_id,"
    " (SELECT p.name FROM projects p WHERE p.id = u.project_id) AS project"
)
_OLDEST_KEY = (
    "(SELECT o.access_key FROM keypairs o WHERE o.user_id = u.id AND o.is_active"
    " ORDER BY o.created_at, o.access_key LIMIT 1) AS access_key"
)


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
) -> tuple[str, str]:
    """A user of the default project with one key pair, a new one if none is given: (access key, secret key)."""
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
            text("INSERT INTO keypairs (access_key, user_id, secret) VALUES (:key, :user, :secret)"),
            {"key": access_key, "user": user_id, "secret": seal.seal(secret_key.encode())},
        )
    return access_key, secret_key


async def by_password(engine: AsyncEngine, email: str, password: str) -> Principal | None:
    """The user, if the password is right. Takes as long for a user that does not exist."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {_PRINCIPAL}, {_OLDEST_KEY}, u.password_hash FROM users u"
                " WHERE u.email = :email AND u.is_active"
            ),
            {"email": email},
        )
        row = rows.first()
    try:
        _hasher.verify(row.password_hash if row is not None else _NOBODY, password)
    except VerifyMismatchError:
        return None
    return None if row is None else _principal(row)


async def by_access_key(engine: AsyncEngine, access_key: str) -> tuple[Principal, bytes] | None:
    """The owner of an active key pair, and its sealed secret."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {_PRINCIPAL}, k.access_key, k.secret FROM keypairs k JOIN users u ON u.id = k.user_id"
                " WHERE k.access_key = :key AND k.is_active AND u.is_active"
            ),
            {"key": access_key},
        )
        row = rows.first()
    return None if row is None else (_principal(row), bytes(row.secret))


async def by_id(engine: AsyncEngine, user_id: str) -> Principal | None:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(f"SELECT {_PRINCIPAL}, {_OLDEST_KEY} FROM users u WHERE u.id = :id AND u.is_active"), {"id": user_id}
        )
        row = rows.first()
    return None if row is None else _principal(row)


def _principal(row) -> Principal:  # type: ignore[no-untyped-def]
    return Principal(
        str(row.user_id), row.email, row.role, row.domain, str(row.project_id), row.project, row.access_key or ""
    )
