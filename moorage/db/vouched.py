"""Users whom an identity provider vouches for: made at their first log-in, and brought up to date at each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.db import audit
from moorage.domain.errors import Conflict, Forbidden
from moorage.domain.ids import new_access_key, new_id, new_secret_key
from moorage.domain.tenancy import Rank
from moorage.seal import Seal


@dataclass(frozen=True, slots=True)
class Vouched:
    """Who it is for the provider (issuer and subject), and what it is here. None: the provider does not decide."""

    issuer: str
    subject: str
    email: str
    email_is_verified: bool
    name: str
    domain: str | None
    default_domain: str
    projects: tuple[str, ...] | None
    role: str | None


async def admit(connection: AsyncConnection, seal: Seal, one: Vouched, *, link_by_email: bool) -> str:
    """The id of the user, who is now what the claims say. Refuses an address that belongs to somebody else."""
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:who, 0))"), {"who": f"{one.issuer} {one.subject}"}
    )
    row = await _known(connection, one) or await _linked(connection, one, link_by_email=link_by_email)
    if row is None:
        return await _create(connection, seal, one)
    await _update(connection, one, row)
    return str(row["id"])


async def _known(connection: AsyncConnection, one: Vouched) -> Mapping[str, Any] | None:
    rows = await connection.execute(
        text(f"{_USER} WHERE u.oidc_issuer = :issuer AND u.oidc_subject = :subject FOR UPDATE OF u"),
        {"issuer": one.issuer, "subject": one.subject},
    )
    row = rows.mappings().first()
    return dict(row) if row else None


async def _linked(connection: AsyncConnection, one: Vouched, *, link_by_email: bool) -> Mapping[str, Any] | None:
    """The local user of that address, if the provider may have it."""
    rows = await connection.execute(
        text(f"{_USER} WHERE lower(u.email) = lower(:email) FOR UPDATE OF u"), {"email": one.email}
    )
    row = rows.mappings().first()
    if row is None:
        return None
    if not link_by_email or not one.email_is_verified or row["oidc_subject"] is not None:
        raise Conflict(
            "a user of this e-mail address exists and is not linked to the provider",
            code="email-in-use",
            hint="log in with the password, or ask an administrator",
        )
    return dict(row)


async def _projects(connection: AsyncConnection, domain: str, names: tuple[str, ...]) -> list[str]:
    """Ids of those projects that exist, in the order given; the domain's `default` if there is none of them."""
    rows = await connection.execute(
        text(
            "SELECT p.id::text, p.name FROM projects p JOIN domains d ON d.name = p.domain"
            " WHERE p.domain = :domain AND p.is_active AND d.is_active AND p.name = ANY(:names)"
            " ORDER BY array_position(CAST(:names AS text[]), p.name)"
        ),
        {"domain": domain, "names": [*names, "default"]},
    )
    found = rows.all()
    if not found:
        raise Forbidden(
            f"none of the projects that the provider names exists in domain {domain!r}, nor one called default",
            code="no-project",
            hint="ask an administrator",
        )
    return [row.id for row in found if row.name in names] or [found[0].id]


async def _create(connection: AsyncConnection, seal: Seal, one: Vouched) -> str:
    user_id, role, domain = new_id(), one.role or str(Rank.USER), one.domain or one.default_domain
    project_ids = await _projects(connection, domain, one.projects or ())
    await connection.execute(
        text(
            "INSERT INTO users (id, email, role, domain, project_id, name, full_name, oidc_issuer, oidc_subject)"
            " VALUES (:id, :email, :role, :domain, :project, :name, :name, :issuer, :subject)"
        ),
        {
            "id": user_id,
            "email": one.email,
            "role": role,
            "domain": domain,
            "project": project_ids[0],
            "name": one.name,
            "issuer": one.issuer,
            "subject": one.subject,
        },
    )
    await _join(connection, user_id, project_ids)
    await _give_key(connection, seal, user_id)
    after = {"email": one.email, "role": role, "domain": domain, "projects": project_ids, "oidc_issuer": one.issuer}
    await audit.write(connection, None, "user:create", user_id, after=after, domain=domain, user_id=user_id)
    return user_id


async def _update(connection: AsyncConnection, one: Vouched, row: Mapping[str, Any]) -> None:
    """Domain, rank and projects only where the provider decides them; what is right already is not touched."""
    domain, members = one.domain or row["domain"], list(row["projects"])
    if domain != row["domain"] or one.projects is not None:
        members = await _projects(connection, domain, one.projects or ())
    stays = not members or str(row["project_id"]) in members
    main = str(row["project_id"]) if stays else members[0]
    members.sort()
    before = {name: row[name] for name in ("role", "domain", "projects", "name", "oidc_issuer")}
    after = {"role": one.role or row["role"], "domain": domain, "projects": members, "name": one.name or row["name"],
             "oidc_issuer": one.issuer}  # fmt: skip
    if before == after:
        return
    user_id = str(row["id"])
    await connection.execute(
        text(
            "UPDATE users SET role = :role, domain = :domain, project_id = :project, name = :name,"
            " oidc_issuer = :oidc_issuer, oidc_subject = :subject WHERE id = :id"
        ),
        {**after, "id": user_id, "project": main, "subject": one.subject},
    )
    if members != list(row["projects"]):
        await connection.execute(text("DELETE FROM memberships WHERE user_id = :id"), {"id": user_id})
        await _join(connection, user_id, members)
    await audit.write(
        connection, None, "user:update", user_id, before=before, after=after, domain=domain, user_id=user_id
    )


async def _join(connection: AsyncConnection, user_id: str, project_ids: list[str]) -> None:
    await connection.execute(
        text("INSERT INTO memberships (user_id, project_id) SELECT :user, unnest(CAST(:projects AS uuid[]))"),
        {"user": user_id, "projects": project_ids},
    )


async def _give_key(connection: AsyncConnection, seal: Seal, user_id: str) -> None:
    """Every user has a key pair: sessions and quotas are counted by it."""
    await connection.execute(
        text("INSERT INTO keypairs (access_key, user_id, secret) VALUES (:key, :user, :secret)"),
        {"key": new_access_key(), "user": user_id, "secret": seal.seal(new_secret_key().encode())},
    )


_USER = (
    "SELECT u.id, u.email, u.role, u.domain, u.project_id, u.name, u.oidc_issuer, u.oidc_subject,"
    " ARRAY(SELECT m.project_id::text FROM memberships m WHERE m.user_id = u.id ORDER BY m.project_id) AS projects"
    " FROM users u"
)
