"""Which users somebody may see, and act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db import audit, roles
from moorage.db.reach import within
from moorage.db.tree import Row, one
from moorage.db.tree import deleted as is_deleted
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.ids import is_id
from moorage.domain.permissions import Reach
from moorage.domain.tenancy import Principal, forbidden

COLUMNS = (
    "u.id::text AS id, u.email, u.name, u.full_name, u.description, u.status, u.role, u.domain,"
    " (SELECT p.name FROM projects p WHERE p.id = u.project_id) AS project,"
    " ARRAY(SELECT p.name FROM memberships m JOIN projects p ON p.id = m.project_id WHERE m.user_id = u.id"
    "   ORDER BY p.name) AS projects,"
    " u.policy, u.main_access_key, u.allowed_client_ip, u.need_password_change, u.password_changed_at,"
    " u.password_hash IS NOT NULL AS has_password, u.totp_enabled_at IS NOT NULL AS has_totp, u.failed_logins,"
    " u.locked_until, u.created_at"
)


def unknown(ref: str) -> NotFound:
    return NotFound(f"there is no user {ref[:254]!r}", code="unknown-user")


def address_of(ref: str) -> str:
    return ref.lower() if ref.isascii() else ref


def readable(far: Reach, values: list[Any]) -> str:
    """A condition for rows of `users u`: of the domains, of members of the projects, and of oneself."""
    own = within(far, values, user="u.id", domain="u.domain")
    if far.everywhere or not far.projects:
        return own
    values.append(sorted(far.projects))
    member = "SELECT 1 FROM memberships m WHERE m.user_id = u.id AND m.project_id"
    return f"({own} OR EXISTS ({member} = ANY(${len(values)}::uuid[])))"


async def locked(
    connection: AsyncConnection,
    who: Principal,
    ref: str,
    permission: str,
    *,
    seen_by: str = "user:read",
    may_be_own: bool = False,
    main: str | None = None,
    deleted: bool = False,
) -> Row:
    """The user stays as it is until the commit, and `who` may do this to it. NotFound if it may not even be read.

    `main`: the project in its domain that is locked before it, so that nobody waits for the other.
    """
    row = await _lock(connection, ref, main=main, may_end_rule=permission in ("user:update", "user:delete"))
    ids = await project_ids(connection, row["id"])
    if not who.reach(seen_by).covers(domain=row["domain"], projects=ids, user=row["id"]):
        raise unknown(ref)
    row["project_ids"] = ids
    demand_on_user(who, permission, row, may_be_own=may_be_own)
    await roles.demand_not_above(connection, who, row["id"])
    if row["status"] == "deleted" and not deleted:
        raise is_deleted("user", row["email"])
    return row


async def locked_self(connection: AsyncConnection, who: Principal, *, main: str | None = None) -> Row:
    """Oneself, for what everybody may change about himself. A token of few permissions is not enough."""
    row = await _lock(connection, who.user_id, main=main)
    await roles.demand_not_above(connection, who, row["id"])
    return row


async def _lock(connection: AsyncConnection, ref: str, *, main: str | None = None, may_end_rule: bool = False) -> Row:
    ref = ref if is_id(ref) else address_of(ref)
    condition = "u.id = CAST(:ref AS uuid)" if is_id(ref) else "u.email = :ref"
    if main is not None:
        await connection.execute(
            text(
                "SELECT 1 FROM projects p JOIN users u ON u.domain = p.domain"
                f" WHERE {condition} AND p.name = :main FOR KEY SHARE OF p"
            ),
            {"ref": ref, "main": main},
        )
    if may_end_rule:
        await connection.execute(text(_SUPERADMINS))
    row = await one(connection, f"SELECT {COLUMNS} FROM users u WHERE {condition} FOR UPDATE OF u", {"ref": ref})
    if row is None:
        raise unknown(ref)
    return row


def demand_on_user(who: Principal, permission: str, user: Row, *, may_be_own: bool = False) -> None:
    """Forbidden, unless the permission reaches this user; through projects only if it reaches all of its projects.

    Else whoever adds members to a project would rule them. Nobody changes what he was given himself: oneself one
    reaches from a wider scope only, unless it `may_be_own`.
    """
    far = who.reach(permission)
    through_projects = bool(user["project_ids"]) and far.projects >= set(user["project_ids"])
    directly = user["id"] in far.users and (may_be_own or user["id"] != who.user_id)
    if not (far.everywhere or user["domain"] in far.domains or through_projects or directly):
        raise forbidden(who, permission)


async def project_ids(connection: AsyncConnection, user_id: str) -> list[str]:
    rows = await connection.execute(
        text("SELECT project_id::text FROM memberships WHERE user_id = CAST(:id AS uuid)"), {"id": user_id}
    )
    return list(rows.scalars())


# Taken before the user's own row, by everybody in the same order, whenever the last one might go.
_SUPERADMINS = "SELECT 1 FROM users WHERE role = 'superadmin' AND status = 'active' ORDER BY id FOR NO KEY UPDATE"


async def keep_a_superadmin(connection: AsyncConnection, user_id: str) -> None:
    """Refuses what would leave nobody who may do everything."""
    others = await connection.execute(
        text(
            "SELECT bool_or(id = CAST(:id AS uuid)) AND count(*) = 1 FROM users"
            " WHERE role = 'superadmin' AND status = 'active'"
        ),
        {"id": user_id},
    )
    if others.scalar():
        raise Conflict(
            "this is the last active superadmin", code="last-superadmin", hint="make somebody else superadmin first"
        )


async def written(
    connection: AsyncConnection,
    who: Principal,
    operation: str,
    row: Mapping[str, Any],
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    await audit.write(
        connection, who, operation, row["email"], before=before, after=after, domain=row["domain"], user_id=row["id"]
    )
