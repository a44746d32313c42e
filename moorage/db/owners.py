"""Whose limits, quotas and grants they are: a key pair, a user, a project or a domain, and who may look at them.

A role held in a scope reaches what lies in it, never the scope itself: whoever administers a domain sets what its
projects, users and keys may have, and not what the domain may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db import audit
from moorage.db.reach import within
from moorage.domain.errors import Forbidden, NotFound
from moorage.domain.permissions import Reach
from moorage.domain.tenancy import Principal, Rank
from moorage.scheduler.snapshot import Scope


@dataclass(frozen=True, slots=True)
class Owner:
    """A domain has no project and no user, a project no user, a user no project."""

    scope: Scope
    name: str
    domain: str
    project_id: str = ""
    user_id: str = ""
    rank: str = ""


NAMED = {
    Scope.KEYPAIR: "an access key",
    Scope.USER: "a user's e-mail address",
    Scope.PROJECT: "domain/project",
    Scope.DOMAIN: "a domain",
}
_FIND = {
    Scope.KEYPAIR: "SELECT u.domain, '' AS project_id, u.id::text AS user_id, u.role AS rank FROM keypairs k"
    " JOIN users u ON u.id = k.user_id WHERE k.access_key = :name",
    Scope.USER: "SELECT u.domain, '' AS project_id, u.id::text AS user_id, u.role AS rank FROM users u"
    " WHERE u.email = :name",
    Scope.PROJECT: "SELECT p.domain, p.id::text AS project_id, '' AS user_id, '' AS rank FROM projects p"
    " WHERE p.domain || '/' || p.name = :name",
    Scope.DOMAIN: "SELECT d.name AS domain, '' AS project_id, '' AS user_id, '' AS rank FROM domains d"
    " WHERE d.name = :name",
}


async def find(
    connection: AsyncConnection,
    who: Principal,
    scope: Scope,
    name: str,
    *,
    seen_by: str = "limit:read",
    locked: bool = True,
) -> Owner:
    """NotFound for an owner that is not there, and for one of whom `who` may not read this.

    `locked`: nobody deletes or moves it before the commit.
    """
    rows = await connection.execute(text(_FIND[scope] + " FOR KEY SHARE" * locked), {"name": name})
    row = rows.mappings().one_or_none()
    owner = Owner(scope, name, **row) if row is not None else None
    if owner is None or not _may_see(who, who.reach(seen_by), owner):
        raise NotFound(
            f"there is no {scope} {name[:254]!r}; its name is {NAMED[scope]}",
            code=f"unknown-{scope}",
            data={"unknown": [name[:254]]},
        )
    return owner


def demand(who: Principal, permission: str, owner: Owner) -> None:
    """Forbidden, unless the permission is held in a scope that is wider than the owner, and the owner is no higher."""
    if owner.scope is Scope.DOMAIN:
        who.demand(permission)
    else:
        who.demand(permission, domain=owner.domain, user=owner.user_id if owner.scope is Scope.KEYPAIR else "")
    if owner.rank in (Rank.SUPERADMIN, Rank.MONITOR) and not who.reach(permission).everywhere:
        raise Forbidden(
            f"{owner.name} belongs to a {owner.rank}: only who may do this everywhere may do it here",
            data={"permission": permission},
        )


async def write_audit(
    connection: AsyncConnection,
    who: Principal,
    operation: str,
    owner: Owner,
    *,
    entity_id: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """What was changed for an owner, to be read by whoever may read of that owner."""
    await audit.write(
        connection,
        who,
        operation,
        entity_id or f"{owner.scope}/{owner.name}",
        before=before,
        after=after,
        domain=owner.domain,
        project_id=owner.project_id,
        user_id=owner.user_id,
    )


def visible(who: Principal, permission: str, values: list[Any]) -> str:
    """A condition on `scope` and `name` for owners of whom `who` may read; as `within`, with numbered values."""
    reach = who.reach(permission)
    if reach.everywhere:
        return "true"
    user = within(reach, values, user="u.id", domain="u.domain")
    project = within(reach, values, project="p.id", domain="p.domain")
    domain = within(reach, values, domain="d.name")
    values.append(who.domain)
    return (
        "((scope = 'keypair' AND name IN (SELECT k.access_key FROM keypairs k JOIN users u ON u.id = k.user_id"
        f" WHERE {user})) OR (scope = 'user' AND name IN (SELECT u.email FROM users u WHERE {user}))"
        f" OR (scope = 'project' AND name IN (SELECT p.domain || '/' || p.name FROM projects p WHERE {project}))"
        " OR (scope = 'domain' AND name IN (SELECT d.name FROM domains d"
        f" WHERE {domain} OR d.name = ${len(values)}::text)))"
    )


def _may_see(who: Principal, reach: Reach, owner: Owner) -> bool:
    """What applies to oneself, one's own domain too. A project shows its limits to members, its members theirs not."""
    own_domain = owner.scope is Scope.DOMAIN and owner.name == who.domain
    projects = (owner.project_id,) if owner.project_id else ()
    return own_domain or reach.covers(domain=owner.domain, projects=projects, user=owner.user_id)
