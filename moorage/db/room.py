"""Whether a group's nodes could hold a session if they were empty: what never fits is refused when it is submitted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.domain.errors import InvalidRequest, Unsatisfiable
from moorage.domain.resources import Slots, format_slots

# How many kernels of the request an empty node takes. A fraction of a device must fit on one device, so there the
# devices count, not their sum.
_FITS = (
    "SELECT min(CASE WHEN w.slot LIKE '%.shares' AND w.amount <= 100"
    "   AND EXISTS (SELECT 1 FROM devices d WHERE d.agent_id = a.id AND d.slot = w.slot)"
    " THEN (SELECT COALESCE(sum(d.total / w.amount), 0) FROM devices d"
    "   WHERE d.agent_id = a.id AND d.slot = w.slot AND d.healthy)"
    " ELSE COALESCE(c.offered, 0) / w.amount END)"
    " FROM wanted w LEFT JOIN agent_slots c ON c.agent_id = a.id AND c.slot = w.slot"
)
_WANTED = (
    "wanted AS (SELECT key AS slot, value::bigint AS amount FROM jsonb_each_text(CAST(:slots AS jsonb))"
    " WHERE value::bigint > 0)"
)
# A cordoned node counts: it is there, only not now.
_CANDIDATES = (
    "a.resource_group = :name AND a.status = 'ALIVE'"
    " AND (cardinality(CAST(:designated AS text[])) = 0 OR a.id = ANY(:designated))"
)


async def check_room(
    connection: AsyncConnection,
    resource_group: str,
    slots: Slots,
    *,
    kernels: int = 1,
    on_one_node: bool = False,
    architecture: str = "",
    designated: Sequence[str] = (),
) -> None:
    """Refuses what no living node of the group could hold even when it is empty. Without any node it waits."""
    values: dict[str, Any] = {
        "name": resource_group,
        "slots": json.dumps(slots),
        "architecture": architecture,
        "designated": list(designated),
    }
    least, enough = (kernels, 1) if on_one_node else (1, kernels)
    rows = await connection.execute(
        text(
            f"WITH {_WANTED} SELECT COALESCE(sum(n), 0) FROM (SELECT f.n FROM agents a, LATERAL ({_FITS}) AS f(n)"
            f" WHERE {_CANDIDATES} AND (:architecture = '' OR a.architecture = :architecture) AND f.n >= :least"
            " LIMIT :enough) AS fitting"
        ),
        {**values, "least": least, "enough": enough},
    )
    fitting = int(rows.scalar_one())
    if fitting < kernels:
        await _refuse(connection, values, slots, kernels, on_one_node)


async def check_designated(connection: AsyncConnection, resource_group: str, agents: Sequence[str]) -> None:
    """Refuses a node that isn't of the group."""
    rows = await connection.execute(
        text("SELECT id FROM agents WHERE resource_group = :name AND id = ANY(:agents)"),
        {"name": resource_group, "agents": list(agents)},
    )
    unknown = sorted(set(agents) - set(rows.scalars()))
    if unknown:
        raise InvalidRequest(
            f"resource group {resource_group!r} has no agent {', '.join(unknown)[:200]}",
            code="unknown-agent",
            data={"unknown": unknown},
        )


async def _refuse(
    connection: AsyncConnection, values: dict[str, Any], slots: Slots, kernels: int, on_one_node: bool
) -> None:
    """With the numbers, if there are nodes at all."""
    rows = await connection.execute(
        text(
            f"WITH {_WANTED} SELECT a.architecture, (SELECT jsonb_object_agg(c.slot, c.offered) FROM agent_slots c"
            f" WHERE c.agent_id = a.id AND c.offered > 0) AS slots, ({_FITS}) AS n,"
            " (SELECT sum(c.offered) FROM agent_slots c JOIN wanted w ON w.slot = c.slot WHERE c.agent_id = a.id"
            "   AND c.slot NOT IN ('cpu', 'mem')) AS accelerators"
            f" FROM agents a WHERE {_CANDIDATES}"
        ),
        values,
    )
    nodes = rows.all()
    if not nodes:
        return
    architecture = values["architecture"]
    right = [node for node in nodes if architecture in ("", node.architecture)]
    if not right:
        found = ", ".join(sorted({node.architecture for node in nodes}))
        raise Unsatisfiable(
            f"asked architecture {architecture}; the nodes have {found}",
            hint="leave the architecture out, or take another resource group",
            data={"asked": architecture, "architectures": found},
        )
    largest = max(
        right,
        key=lambda node: (node.accelerators or 0, (node.slots or {}).get("cpu", 0), (node.slots or {}).get("mem", 0)),
    )
    data: dict[str, Any] = {"asked": slots, "largest": largest.slots or {}}
    has = f"the largest node has {format_slots(largest.slots or {})}"
    if any(not node.n and _fits_by_sum(slots, node.slots or {}) for node in right):
        has += ", but no single device has so much"
    hint = "ask for less, or add a larger node"
    if kernels == 1:
        raise Unsatisfiable(f"asked {format_slots(slots)}; {has}", hint=hint, data=data)
    fits = max(node.n for node in right) if on_one_node else sum(node.n for node in right)
    place = "the largest node takes" if on_one_node else f"all {len(right)} nodes together take"
    raise Unsatisfiable(
        f"asked {kernels} kernels of {format_slots(slots)}{' on one node' if on_one_node else ''};"
        f" {place} {fits} when empty; {has}",
        hint=f"{hint}, or try cluster_mode multi-node" if on_one_node else hint,
        data={**data, "kernels": kernels, "fitting": int(fits)},
    )


def _fits_by_sum(slots: Slots, offered: Slots) -> bool:
    return all(offered.get(name, 0) >= amount for name, amount in slots.items())
