"""Which images may run, and on which nodes they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.db.tree import unknown_domain
from moorage.domain.committed import COMMITTED
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.images import checked_pattern, is_allowed, registry_of, tagged
from moorage.domain.pulls import NodeImage
from moorage.domain.tenancy import Principal

_IN_FORCE = "SELECT pattern FROM allowed_images WHERE domain IS NULL OR domain = :domain ORDER BY pattern"


async def check_allowed(connection: AsyncConnection, domain: str, image: str) -> None:
    """Refuses an image that the domain may not run, with what it may. Without any pattern everything may run."""
    in_force = await _in_force(connection, domain)
    if in_force and not is_allowed(image, in_force):
        raise _refused(f"image {image[:200]!r} is not allowed", in_force, "moor image allowed lists the patterns")
    rows = await connection.execute(
        text("SELECT allowed_registries FROM domains WHERE name = :domain"), {"domain": domain}
    )
    registries = list(rows.scalar_one_or_none() or ())
    if registries and registry_of(image) not in (*registries, COMMITTED):
        raise _refused(
            f"image {image[:200]!r} comes from {registry_of(image)}", registries, "these are the domain's registries"
        )


async def only_nodes(connection: AsyncConnection, resource_group: str, image: str, wanted: Sequence[str]) -> list[str]:
    """The only nodes that may run it, of those `wanted` if any are; none named is all. No registry has a commit."""
    if registry_of(image) != COMMITTED:
        return list(wanted)
    rows = await connection.execute(
        text("SELECT id FROM agents WHERE resource_group = :group AND :image = ANY(images) ORDER BY id"),
        {"group": resource_group, "image": tagged(image)},
    )
    nodes = [one for one in rows.scalars() if not wanted or one in wanted]
    if not nodes:
        raise InvalidRequest(
            f"no node of resource group {resource_group!r} has the committed image {image[:200]!r}",
            code="image-nowhere",
            hint="moor image ls shows where it is; a node tells of a new one within 10 s",
            data={"field": "image"},
        )
    return nodes


def _refused(words: str, allowed: Sequence[str], hint: str) -> InvalidRequest:
    more = f" and {len(allowed) - 10} more" if len(allowed) > 10 else ""
    return InvalidRequest(
        f"{words}; allowed are {', '.join(allowed[:10])}{more}",
        code="image-not-allowed",
        hint=hint,
        data={"field": "image", "allowed": list(allowed[:100])},
    )


async def _in_force(connection: AsyncConnection, domain: str) -> list[str]:
    rows = await connection.execute(text(_IN_FORCE), {"domain": domain})
    return [str(pattern) for pattern in rows.scalars()]


async def patterns(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """Those that apply to one; all of them to whoever sees everything. `domain` is null where it is everybody's."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT domain, pattern, created_by, created_at FROM allowed_images"
                " WHERE :everything OR domain IS NULL OR domain = :domain ORDER BY domain NULLS FIRST, pattern"
            ),
            {"everything": who.sees_all, "domain": who.domain},
        )
        return [{**row, "created_at": row["created_at"].isoformat()} for row in rows.mappings()]


async def allow(engine: AsyncEngine, who: Principal, pattern: str, domain: str | None) -> None:
    """What it matches may run, in the domain or everywhere. The first pattern closes the door to all else."""
    pattern = checked_pattern(pattern)
    async with engine.begin() as connection:
        if domain is not None:
            found = await connection.execute(
                text("SELECT 1 FROM domains WHERE name = :name AND deleted_at IS NULL FOR KEY SHARE"), {"name": domain}
            )
            if found.first() is None:
                raise unknown_domain(domain)
        made = await connection.execute(
            text(
                "INSERT INTO allowed_images (domain, pattern, created_by) VALUES (:domain, :pattern, :by)"
                " ON CONFLICT DO NOTHING RETURNING 1"
            ),
            {"domain": domain, "pattern": pattern, "by": who.actor or who.email},
        )
        if made.first() is None:
            raise Conflict(f"{pattern} is allowed there already", code="pattern-exists")
        after = {"domain": domain, "pattern": pattern}
        await audit.write(connection, who, "image:allow", pattern, after=after, domain=domain or "")


async def disallow(engine: AsyncEngine, who: Principal, pattern: str, domain: str | None) -> None:
    """The pattern is gone; what runs goes on. Without any pattern everything may run again."""
    async with engine.begin() as connection:
        gone = await connection.execute(
            text(
                "DELETE FROM allowed_images WHERE pattern = :pattern AND domain IS NOT DISTINCT FROM :domain"
                " RETURNING 1"
            ),
            {"domain": domain, "pattern": pattern},
        )
        if gone.first() is None:
            raise NotFound(
                f"there is no pattern {pattern[:200]!r} {'of ' + domain if domain else 'for everybody'}",
                code="unknown-pattern",
                hint="moor admin image ls lists them",
            )
        before = {"domain": domain, "pattern": pattern}
        await audit.write(connection, who, "image:allow", pattern, before=before, after={}, domain=domain or "")


async def note_details(engine: AsyncEngine, agent_id: str, images: Sequence[NodeImage]) -> None:
    """These are the images of the node, and no others. Rows that stay the same aren't written."""
    async with engine.begin() as connection:
        values = {"agent": agent_id, "images": json.dumps([asdict(one) for one in images])}
        seen = (
            "jsonb_to_recordset(CAST(:images AS jsonb)) AS i(name text, image_id text, digest text, size bigint,"
            " last_used float8, ours boolean)"
        )
        await connection.execute(
            text(
                "DELETE FROM agent_images a WHERE a.agent_id = :agent"
                f" AND NOT EXISTS (SELECT 1 FROM {seen} WHERE i.name = a.name)"
            ),
            values,
        )
        await connection.execute(
            text(
                "INSERT INTO agent_images AS a (agent_id, name, image_id, digest, size, last_used, ours)"
                " SELECT :agent, i.name, i.image_id, i.digest, i.size,"
                f" CASE WHEN i.last_used > 0 THEN to_timestamp(i.last_used) END, i.ours FROM {seen}"
                " ON CONFLICT (agent_id, name) DO UPDATE SET image_id = excluded.image_id, digest = excluded.digest,"
                " size = excluded.size, last_used = excluded.last_used, ours = excluded.ours"
                " WHERE (a.image_id, a.digest, a.size, a.last_used, a.ours) IS DISTINCT FROM"
                " (excluded.image_id, excluded.digest, excluded.size, excluded.last_used, excluded.ours)"
            ),
            values,
        )


async def index(engine: AsyncEngine, who: Principal) -> list[dict[str, Any]]:
    """By name and digest, with the living nodes that have it; of what one may run, unless one sees everything."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT i.name, i.digest, max(i.size) AS size, max(i.last_used) AS last_used,"
                " bool_or(i.ours) AS pulled,"
                " array_agg(i.agent_id ORDER BY i.agent_id) AS agents FROM agent_images i"
                " JOIN agents a ON a.id = i.agent_id WHERE a.status = 'ALIVE' GROUP BY i.name, i.digest"
                " ORDER BY i.name, i.digest"
            )
        )
        found = [_plain(dict(row)) for row in rows.mappings()]
        in_force = [] if who.sees_all else await _in_force(connection, who.domain)
    return [one for one in found if not in_force or is_allowed(one["name"], in_force)]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    used = row["last_used"]
    return {**row, "last_used": used.isoformat() if used else None}
