"""Networks of gangs: each has one of its own, from the pool of the cluster, as long as a node may still have it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from moorage.domain.network import KernelNetwork, NetworkPolicy, candidates, kernel_networks

# Each loses against somebody who takes the same one at the same moment, at most.
_TRIES = 16


class NoNetworkLeft(Exception):
    """The pool has no network of that size left; the session stays in the queue."""


async def allocate(connection: AsyncConnection, session_id: str, attempt: int, kernels: int, pool: str) -> str:
    """A network that nobody else has, for this attempt of a gang. In the transaction that places it."""
    for number in range(_TRIES):
        seed = int.from_bytes(hashlib.sha256(f"{session_id}/{attempt}/{number}".encode()).digest()[:8], "big")
        subnet = await connection.scalar(
            text(
                "INSERT INTO session_networks (session_id, attempt, subnet)"
                " SELECT :id, :attempt, CAST(c.subnet AS cidr)"
                " FROM unnest(CAST(:candidates AS text[])) WITH ORDINALITY AS c(subnet, place)"
                " WHERE NOT EXISTS (SELECT 1 FROM session_networks h WHERE h.subnet && CAST(c.subnet AS cidr))"
                " ORDER BY c.place LIMIT 1 ON CONFLICT DO NOTHING RETURNING CAST(subnet AS text)"
            ),
            {"id": session_id, "attempt": attempt, "candidates": candidates(pool, kernels, seed)},
        )
        if subnet is not None:
            return str(subnet)
    raise NoNetworkLeft(f"no network for {kernels} kernels is free in {pool}; see MOORAGE_NETWORK_POOL")


async def release(connection: AsyncConnection, session_id: str) -> None:
    """Those of attempts that hold nothing any more. On a lost node it may still be there: it stays theirs."""
    # Two nodes may come back at the same time: the second sees what the first has let go.
    await connection.execute(
        text("SELECT 1 FROM session_networks WHERE session_id = :id FOR UPDATE"), {"id": session_id}
    )
    await connection.execute(
        text(
            "DELETE FROM session_networks n WHERE n.session_id = :id AND NOT EXISTS (SELECT 1 FROM allocations a"
            " WHERE a.session_id = n.session_id AND a.attempt = n.attempt AND a.released_at IS NULL)"
        ),
        {"id": session_id},
    )


async def of(
    connection: AsyncConnection, row: Mapping[str, Any], placed: Mapping[str, str]
) -> dict[str, KernelNetwork]:
    """Kernel → its network. Nothing is asked for a session of one kernel, and what is open by default isn't said."""
    kernels = [(str(one["id"]), f"{one['role']}{one['idx']}") for one in row["kernels"]]
    alone = {} if row["network"] == NetworkPolicy.OPEN else {kernels[0][0]: KernelNetwork(row["network"])}
    if len(kernels) == 1:
        return alone
    found = await connection.execute(
        text(
            "SELECT CAST(n.subnet AS text) AS subnet, (SELECT jsonb_object_agg(a.id, a.overlay_address) FROM agents a"
            " WHERE a.id = ANY(:agents)) AS underlays"
            " FROM session_networks n WHERE n.session_id = :id AND n.attempt = :attempt"
        ),
        {"id": row["id"], "attempt": row["attempt"], "agents": sorted(set(placed.values()))},
    )
    held = found.one_or_none()
    if held is None:  # placed before gangs had networks
        return {}
    return dict(kernel_networks(row["network"], held.subnet, kernels, dict(placed), dict(held.underlays or {})))
