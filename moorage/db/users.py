"""Users: who they are, who may change them, and what is left of one that is deleted and purged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage import passwords
from moorage.db import audit, keypairs, projects, roles
from moorage.db.engine import reading
from moorage.db.tree import Row, check_policy, differences, join_domain, one, page, plain, settings_of
from moorage.db.user_reach import COLUMNS, address_of, keep_a_superadmin, locked, readable, unknown, written
from moorage.domain.addresses import checked_addresses, is_allowed
from moorage.domain.errors import Conflict, InvalidRequest
from moorage.domain.ids import checked_email, is_id, new_id
from moorage.domain.tenancy import Principal, Rank
from moorage.seal import Seal

_CHANGEABLE = (
    "name", "full_name", "description", "role", "status", "policy", "need_password_change", "allowed_client_ip"
)  # fmt: skip
STATUSES = ("active", "inactive", "before-verification")


@dataclass(frozen=True, slots=True)
class NewUser:
    """`projects` are names in the domain, the first is the main one. Without a password: keys and OpenID Connect."""

    email: str
    domain: str
    projects: tuple[str, ...] = ("default",)
    password: str | None = None
    name: str = ""
    full_name: str = ""
    description: str = ""
    role: str = Rank.USER
    policy: str = "default"
    status: str = "active"
    need_password_change: bool = False
    allowed_client_ip: tuple[str, ...] = ()
    has_keypair: bool = True


async def index(
    engine: AsyncEngine,
    who: Principal,
    *,
    domain: str | None = None,
    project: str | None = None,
    status: str | None = None,
    email: str | None = None,
    role: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[list[Row], int]:
    """By e-mail address. Without `status` all but deleted ones. `email` is a part of it; `project` is a reference."""
    values: list[Any] = []
    conditions = [readable(who.reach("user:read"), values)]
    if project is not None:
        values.append((await projects.get(engine, who, project))["id"])
        members = "SELECT 1 FROM memberships m WHERE m.user_id = u.id"
        conditions.append(f"EXISTS ({members} AND m.project_id = ${len(values)}::uuid)")
    for column, value in (("domain", domain), ("status", status), ("role", role)):
        if value is not None:
            values.append(value)
            conditions.append(f"u.{column} = ${len(values)}")
    if status is None:
        conditions.append("u.status <> 'deleted'")
    if email is not None:
        values.append(email.lower())
        conditions.append(f"position(${len(values)} IN u.email) > 0")
    return await page(engine, COLUMNS, "users u", conditions, values, order="u.email", limit=limit, offset=offset)


async def get(engine: AsyncEngine, who: Principal, ref: str) -> Row:
    """By e-mail address or id."""
    values: list[Any] = [ref if is_id(ref) else address_of(ref)]
    condition = "u.id = $1::uuid" if is_id(ref) else "u.email = $1"
    seen = readable(who.reach("user:read"), values)
    async with reading(engine) as connection:
        found = await connection.fetchrow(f"SELECT {COLUMNS} FROM users u WHERE {condition} AND {seen}", *values)
    if found is None:
        raise unknown(ref)
    return plain(dict(found))


async def create(engine: AsyncEngine, seal: Seal, who: Principal, new: NewUser) -> Row:
    """The user, with `keypair` (access and secret key, shown this once) unless it shall have none."""
    email, networks = checked_email(new.email), checked_addresses(new.allowed_client_ip)
    _check_status(new.status)
    if new.password is not None:
        passwords.check_new(new.password, email=email)
    password_hash = None if new.password is None else await passwords.hashed(new.password)
    async with engine.begin() as connection:
        await join_domain(connection, who, new.domain, "user:create")
        found = await _projects(connection, who, new)
        await roles.demand_rank(connection, who, new.role, new.domain)
        await check_policy(connection, "user", new.policy)
        values = {"email": email, "hash": password_hash, "project": found[0], "networks": networks}
        user_id = await insert(connection, new, values)
        for project_id in found:
            await connection.execute(
                text("INSERT INTO memberships (user_id, project_id) VALUES (:user, :project)"),
                {"user": user_id, "project": project_id},
            )
        keypair = await keypairs.insert(connection, seal, user_id, new.role) if new.has_keypair else None
        row = await _row(connection, user_id)
        await written(connection, who, "user:create", row, after=row)
    return {**row, "keypair": keypair}


async def insert(connection: AsyncConnection, new: NewUser, values: Mapping[str, Any]) -> str:
    user_id = new_id()
    row = await one(
        connection,
        "INSERT INTO users (id, email, password_hash, role, domain, project_id, status, name, full_name, description,"
        " policy, need_password_change, allowed_client_ip) VALUES (:id, :email, :hash, :role, :domain, :project,"
        " :status, :name, :full_name, :description, :policy, :need_change, :networks)"
        " ON CONFLICT (email) DO NOTHING RETURNING id",
        {
            **values,
            "id": user_id,
            "role": str(new.role),
            "domain": new.domain,
            "status": new.status,
            "name": new.name,
            "full_name": new.full_name,
            "description": new.description,
            "policy": new.policy,
            "need_change": new.need_password_change,
        },
    )
    if row is None:
        raise Conflict(
            f"there is a user {values['email']} already",
            code="user-exists",
            hint="an address is used once in the whole system; a deleted user keeps it until it is purged",
        )
    return user_id


async def change(engine: AsyncEngine, who: Principal, ref: str, changes: Mapping[str, Any]) -> Row:
    """What is named is set: `project` is the main one, by name; the rest as the user's own columns."""
    changes = checked_changes(changes)
    async with engine.begin() as connection:
        before = await locked(connection, who, ref, "user:update", main=changes.get("project"))
        if "role" in changes and changes["role"] != before["role"]:
            await roles.demand_rank(connection, who, changes["role"], before["domain"])
        if changes.get("role", before["role"]) != Rank.SUPERADMIN or changes.get("status", "active") != "active":
            await keep_a_superadmin(connection, before["id"])
        if "policy" in changes:
            await check_policy(connection, "user", changes["policy"])
        if before["role"] == Rank.SUPERADMIN != changes.get("role", Rank.SUPERADMIN):
            await keypairs.make_usual(connection, before["id"])
        await set_columns(connection, who, before, changes)
        return await _row(connection, before["id"])


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    checked = dict(changes)
    if "status" in checked:
        _check_status(checked["status"])
    if "allowed_client_ip" in checked:
        checked["allowed_client_ip"] = checked_addresses(checked["allowed_client_ip"])
    return checked


async def set_columns(
    connection: AsyncConnection, who: Principal, before: Row, changes: Mapping[str, Any], operation: str = "user:update"
) -> None:
    """Writes the checked changes of a locked user, and the audit."""
    networks = changes.get("allowed_client_ip")
    address = (audit.asking.get() or audit.Asking()).address
    if networks and before["id"] == who.user_id and address and not is_allowed(address, tuple(networks)):
        raise Conflict(
            f"your present address {address} lies in none of these networks: you would lock yourself out",
            code="would-lock-out",
            hint="name the network that you come from too",
            data={"address": address},
        )
    columns = {name: value for name, value in changes.items() if name != "project"}
    if not changes:
        return
    settings = settings_of(columns, _CHANGEABLE)
    if "project" in changes:
        settings += (", " if settings else "") + "project_id = CAST(:main AS uuid)"
        columns["main"] = await _membership(connection, before, changes["project"])
    await connection.execute(
        text(f"UPDATE users SET {settings} WHERE id = CAST(:id AS uuid)"), {**columns, "id": before["id"]}
    )
    was, now = differences(before, changes)
    await written(connection, who, operation, before, before=was, after=now)


def _check_status(status: str) -> None:
    if status not in STATUSES:
        raise InvalidRequest(f"status {status[:40]!r} can't be set; allowed are {', '.join(STATUSES)}")


async def _projects(connection: AsyncConnection, who: Principal, new: NewUser) -> list[str]:
    if not new.projects:
        raise InvalidRequest("a user belongs to one project at least", data={"field": "projects"})
    wanted = dict.fromkeys(f"{new.domain}/{name}" for name in new.projects)
    return [(await projects.locked(connection, who, ref, "project:read", lock="FOR KEY SHARE"))["id"] for ref in wanted]


async def _membership(connection: AsyncConnection, user: Row, project: str) -> str:
    row = await one(
        connection,
        "SELECT p.id::text AS id FROM memberships m JOIN projects p ON p.id = m.project_id"
        " WHERE m.user_id = CAST(:user AS uuid) AND p.name = :name AND p.deleted_at IS NULL",
        {"user": user["id"], "name": project},
    )
    if row is None:
        raise InvalidRequest(
            f"{user['email']} does not belong to project {project[:80]!r}; it belongs to {', '.join(user['projects'])}",
            code="unknown-project",
            hint="add it to the project first",
            data={"field": "project"},
        )
    return str(row["id"])


async def _row(connection: AsyncConnection, user_id: str) -> Row:
    row = await one(connection, f"SELECT {COLUMNS} FROM users u WHERE u.id = CAST(:id AS uuid)", {"id": user_id})
    assert row is not None
    return plain(row)
