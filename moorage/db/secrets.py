"""Secrets of users and projects, sealed. Written, listed, removed and given to sessions; nobody reads one back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.db.engine import reading
from moorage.db.reach import within
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.ids import new_id
from moorage.domain.secrets import LARGEST_OF_A_SESSION, SecretUse, Target
from moorage.domain.tenancy import Principal
from moorage.seal import Seal

_SHOWN = (
    "x.name, CASE WHEN x.user_id IS NULL THEN 'project' ELSE 'user' END AS scope,"
    " COALESCE(u.email, p.domain || '/' || p.name) AS owner, x.created_by, x.created_at, x.modified_at"
)
_FROM = " FROM secrets x LEFT JOIN users u ON u.id = x.user_id LEFT JOIN projects p ON p.id = x.project_id"
_OWNER = {"user": "x.user_id", "project": "x.project_id", "domain": "COALESCE(u.domain, p.domain)"}
_LIVE = "s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a secret is: a user or a project; the column that says so, and what lies above it."""

    column: str
    id: str
    name: str
    domain: str

    def demanded(self, who: Principal, permission: str) -> None:
        if self.project_id:
            who.demand(permission, domain=self.domain, projects=(self.id,))
        else:
            who.demand(permission, domain=self.domain, user=self.id)

    @property
    def project_id(self) -> str:
        return self.id if self.column == "project_id" else ""


async def put(
    engine: AsyncEngine, seal: Seal, who: Principal, name: str, value: bytes, *, project: str | None
) -> tuple[dict[str, Any], bool]:
    """(what is shown of it, whether it is new). It has this value from now on; sessions that run keep what they got."""
    async with engine.begin() as connection:
        owner = await _owner(connection, who, project)
        found = await _locked(connection, owner, name)
        owner.demanded(who, "secret:create" if found is None else "secret:update")
        rows = await connection.execute(
            text(
                f"INSERT INTO secrets AS x (id, {owner.column}, name, value, created_by) VALUES (:id, :owner, :name,"
                f" :value, :by) ON CONFLICT ({owner.column}, name) DO UPDATE SET value = excluded.value,"
                " modified_at = clock_timestamp() RETURNING x.id, (xmax = 0) AS made"
            ),
            {
                "id": new_id(),
                "owner": owner.id,
                "name": name,
                "value": seal.seal(value),
                "by": who.actor or who.email,
            },
        )
        row = rows.one()
        if found is None and not row.made:  # somebody else made it meanwhile
            owner.demanded(who, "secret:update")
        shown = await _shown(connection, str(row.id))
        await audit.write(
            connection,
            who,
            "secret:create" if row.made else "secret:update",
            f"{owner.name}/{name}",
            before=found,
            after=shown,
            domain=owner.domain,
            project_id=owner.project_id,
        )
        return shown, bool(row.made)


async def index(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """All that one may read of: names, never values."""
    values: list[Any] = []
    seen = within(who.reach("secret:read"), values, **_OWNER)
    async with reading(engine) as connection:
        rows = await connection.fetch(f"SELECT {_SHOWN}{_FROM} WHERE {seen} ORDER BY scope DESC, owner, name", *values)
    return [_plain(row) for row in rows]


async def remove(engine: AsyncEngine, who: Principal, name: str, *, project: str | None, forced: bool) -> None:
    """It is gone. Refused while live sessions refer to it; `forced`, those that wait start without it."""
    async with engine.begin() as connection:
        owner = await _owner(connection, who, project)
        found = await _locked(connection, owner, name)
        if found is None:
            raise NotFound(f"{owner.name} has no secret {name[:128]!r}", code="unknown-secret", hint="moor secret ls")
        owner.demanded(who, "secret:delete")
        if not forced:
            await _check_unused(connection, who, owner, name)
        await connection.execute(
            text(f"DELETE FROM secrets WHERE {owner.column} = :owner AND name = :name"),
            {"owner": owner.id, "name": name},
        )
        entity_id, project_id = f"{owner.name}/{name}", owner.project_id
        await audit.write(
            connection, who, "secret:delete", entity_id, before=found, domain=owner.domain, project_id=project_id
        )


async def refer(
    connection: AsyncConnection,
    seal: Seal,
    who: Principal,
    uses: Sequence[SecretUse],
    *,
    session_id: str,
    project_id: str,
    kernels: int,
) -> None:
    """The session refers to these: the user's own secret of that name, else its project's. Refuses unknown ones."""
    if not uses:
        return
    ids = await _resolved(connection, seal, who, uses, project_id=project_id, kernels=kernels)
    await connection.execute(
        text("INSERT INTO session_secrets (session_id, secret_id, kind, target) VALUES (:id, :secret, :kind, :at)"),
        [
            {"id": session_id, "secret": ids[one.name], "kind": str(one.kind), "at": one.target}
            for one in uses
        ],
    )  # fmt: skip


# Of a row `s` of sessions: what `opened` reads.
OF_A_SESSION = (
    "(SELECT jsonb_agg(jsonb_build_object('kind', r.kind, 'target', r.target, 'value', encode(x.value, 'base64')))"
    " FROM session_secrets r JOIN secrets x ON x.id = r.secret_id WHERE r.session_id = s.id) AS secrets"
)


def opened(found: Sequence[Mapping[str, str]] | None, seal: Seal) -> tuple[dict[str, str], dict[str, str]]:
    """(variables, files with their content in base64) of a session, from OF_A_SESSION."""
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    for one in found or ():
        value = seal.open(base64.b64decode(one["value"]))
        if one["kind"] == Target.ENV:
            env[one["target"]] = value.decode(errors="replace").replace("\0", "")
        else:
            files[one["target"]] = base64.b64encode(value).decode()
    return env, files


async def _resolved(
    connection: AsyncConnection,
    seal: Seal,
    who: Principal,
    uses: Sequence[SecretUse],
    *,
    project_id: str,
    kernels: int,
) -> dict[str, str]:
    """Name → id. Locked, so that none of them is removed before the session that refers to it is there."""
    reach = who.reach("secret:read")
    rows = await connection.execute(
        text(
            "SELECT x.id::text, x.name, x.value FROM secrets x WHERE x.name = ANY(:names) AND"
            " ((:own AND x.user_id = :user) OR (:shared AND x.project_id = :project))"
            " ORDER BY x.user_id NULLS FIRST, x.name FOR KEY SHARE"
        ),
        {
            "names": sorted({one.name for one in uses}),
            "own": reach.covers(domain=who.domain, user=who.user_id),
            "user": who.user_id,
            "shared": reach.covers(domain=who.domain, projects=(project_id,)),
            "project": project_id,
        },
    )
    found = {row.name: row for row in rows}  # one's own come last
    size = 0
    for one in uses:
        if one.name not in found:
            raise InvalidRequest(
                f"there is no secret {one.name!r} of {who.email} or of the session's project",
                code="unknown-secret",
                hint="moor secret ls lists those that one may use",
                data={"field": "secrets", "name": one.name},
            )
        value = seal.open(bytes(found[one.name].value))
        size += len(value) if one.kind is Target.FILE else len(json.dumps(value.decode(errors="replace")))
        if one.kind is Target.ENV and not _is_text(value):
            raise InvalidRequest(
                f"secret {one.name!r} is no text and can't be a variable; ask for it as a file",
                code="secret-not-text",
                data={"field": "secrets", "name": one.name},
            )
    if size * kernels > LARGEST_OF_A_SESSION:
        raise InvalidRequest(
            f"secrets: {size} bytes in each of {kernels} kernels; at most {LARGEST_OF_A_SESSION} are allowed in all",
            code="secrets-too-large",
            data={"field": "secrets", "most": LARGEST_OF_A_SESSION},
        )
    return {name: row.id for name, row in found.items()}


def _is_text(value: bytes) -> bool:
    try:
        return "\0" not in value.decode()
    except UnicodeDecodeError:
        return False


async def _owner(connection: AsyncConnection, who: Principal, project: str | None) -> Owner:
    """The caller, or a project by id, `domain/name`, or its name in the caller's domain."""
    if project is None:
        return Owner("user_id", who.user_id, who.email, who.domain)
    rows = await connection.execute(
        text(
            "SELECT id::text, name, domain FROM projects WHERE id::text = :ref OR domain || '/' || name = :ref"
            " OR (domain = :domain AND name = :ref) ORDER BY (id::text = :ref) DESC, (domain = :domain) DESC LIMIT 1"
        ),
        {"ref": project, "domain": who.domain},
    )
    row = rows.one_or_none()
    seen = row is not None and any(
        who.reach(permission).covers(domain=row.domain, projects=(row.id,))
        for permission in ("secret:read", "project:read")
    )
    if row is None or not seen:
        raise NotFound(f"there is no project {project[:128]!r}", code="unknown-project")
    return Owner("project_id", row.id, f"{row.domain}/{row.name}", row.domain)


async def _locked(connection: AsyncConnection, owner: Owner, name: str) -> dict[str, Any] | None:
    rows = await connection.execute(
        text(f"SELECT {_SHOWN}{_FROM} WHERE x.{owner.column} = :owner AND x.name = :name FOR UPDATE OF x"),
        {"owner": owner.id, "name": name},
    )
    row = rows.mappings().one_or_none()
    return None if row is None else _plain(dict(row))


async def _shown(connection: AsyncConnection, secret_id: str) -> dict[str, Any]:
    rows = await connection.execute(text(f"SELECT {_SHOWN}{_FROM} WHERE x.id = :id"), {"id": secret_id})
    return _plain(dict(rows.mappings().one()))


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "created_at": row["created_at"].isoformat(), "modified_at": row["modified_at"].isoformat()}


async def _check_unused(connection: AsyncConnection, who: Principal, owner: Owner, name: str) -> None:
    """Those that one may not see are counted only."""
    rows = await connection.execute(
        text(
            "SELECT s.name, s.user_id::text, s.project_id::text, s.domain FROM sessions s WHERE s.id IN"
            " (SELECT r.session_id FROM session_secrets r JOIN secrets x ON x.id = r.secret_id"
            f" WHERE x.{owner.column} = :owner AND x.name = :name) AND {_LIVE} ORDER BY s.name"
        ),
        {"owner": owner.id, "name": name},
    )
    users = rows.all()
    if not users:
        return
    reach = who.reach("session:read")
    seen = [one.name for one in users if reach.covers(domain=one.domain, projects=(one.project_id,), user=one.user_id)]
    raise Conflict(
        f"secret {name!r} is used by {len(users)} sessions that have not ended: {', '.join(seen[:20])}".rstrip(": "),
        code="secret-in-use",
        hint="stop them, or remove it all the same with force=true: those that wait start without it",
        data={"sessions": seen, "count": len(users)},
    )
