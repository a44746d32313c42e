"""Orders to pull or remove an image on several nodes, and how each node fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import audit
from moorage.domain.errors import Conflict, InvalidRequest, NotFound
from moorage.domain.ids import new_id
from moorage.domain.image_orders import ImageOrder, NodeResult, OrderKind
from moorage.domain.tenancy import Principal

KEPT_DAYS = 30
_OPERATIONS = {OrderKind.PULL: "image:pull", OrderKind.REMOVE: "image:remove"}


async def begin(
    engine: AsyncEngine, who: Principal, kind: OrderKind, image: str, *, group: str | None, agents: Sequence[str]
) -> tuple[ImageOrder, bool]:
    """(the order, True), or (the same one that is under way, False). Its nodes are those that live now."""
    target = f"agents {' '.join(sorted(set(agents)))}" if agents else (f"group {group}" if group else "all")
    async with engine.begin() as connection:
        nodes = await _nodes(connection, group, agents)
        made = await connection.execute(
            text(
                "INSERT INTO image_orders (id, kind, image, target, asked_by) VALUES (:id, :kind, :image, :target, :by)"
                " ON CONFLICT (kind, image, target) WHERE ended_at IS NULL DO NOTHING RETURNING id::text"
            ),
            {"id": new_id(), "kind": kind, "image": image, "target": target, "by": who.actor or who.email},
        )
        order_id = made.scalar_one_or_none()
        if order_id is None:
            return await _under_way(connection, kind, image, target), False
        await connection.execute(
            text("INSERT INTO image_order_nodes (order_id, agent_id) SELECT :id, unnest(CAST(:agents AS text[]))"),
            {"id": order_id, "agents": nodes},
        )
        after = {"image": image, "target": target, "agents": nodes[:100]}
        await audit.write(connection, who, _OPERATIONS[kind], order_id, after=after)
    return ImageOrder(order_id, kind, image, nodes), True


async def _nodes(connection: AsyncConnection, group: str | None, agents: Sequence[str]) -> list[str]:
    rows = await connection.execute(
        text(
            "SELECT id, status FROM agents WHERE (CAST(:group AS text) IS NULL OR resource_group = :group)"
            " AND (cardinality(CAST(:agents AS text[])) = 0 OR id = ANY(:agents)) ORDER BY id"
        ),
        {"group": group, "agents": list(agents)},
    )
    found = {row.id: row.status for row in rows}
    if unknown := sorted(set(agents) - found.keys()):
        raise NotFound(f"there is no agent {unknown[0][:64]!r}", code="unknown-agent", hint="moor agents lists them")
    living = [agent_id for agent_id, status in found.items() if status == "ALIVE"]
    if not living:
        raise InvalidRequest(
            f"no node is alive{f' in resource group {group!r}' if group else ''}",
            code="no-nodes",
            hint="moor agents lists them",
        )
    return living


async def _under_way(connection: AsyncConnection, kind: str, image: str, target: str) -> ImageOrder:
    rows = await connection.execute(
        text(
            "SELECT o.id::text, array_agg(n.agent_id ORDER BY n.agent_id) AS agents FROM image_orders o"
            " JOIN image_order_nodes n ON n.order_id = o.id WHERE o.kind = :kind AND o.image = :image"
            " AND o.target = :target AND o.ended_at IS NULL GROUP BY o.id"
        ),
        {"kind": kind, "image": image, "target": target},
    )
    row = rows.one_or_none()
    if row is None:  # it ended between the two statements
        raise Conflict("the same order ended just now; ask again", code="order-ended")
    return ImageOrder(row.id, kind, image, list(row.agents))


async def get(engine: AsyncEngine, order_id: str) -> dict[str, Any]:
    """With each node: its state, words, digest, and where it can be asked."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT o.id::text, o.kind, o.image, o.target, o.asked_by, o.created_at, o.ended_at,"
                " (SELECT jsonb_agg(jsonb_build_object('agent', n.agent_id, 'state', n.state, 'message', n.message,"
                "   'digest', n.digest, 'image_id', n.image_id, 'address', a.address, 'status', a.status)"
                "   ORDER BY n.agent_id) FROM image_order_nodes n JOIN agents a ON a.id = n.agent_id"
                "   WHERE n.order_id = o.id) AS nodes FROM image_orders o WHERE o.id::text = :id"
            ),
            {"id": order_id},
        )
        row = rows.mappings().one_or_none()
    if row is None:
        raise NotFound(f"there is no order {order_id[:64]!r} about images", code="unknown-order")
    return _plain(dict(row))


async def record(engine: AsyncEngine, result: NodeResult) -> None:
    """The first result stays."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE image_order_nodes SET state = :state, message = :message, image_id = :image_id,"
                " digest = :digest, ended_at = now() WHERE order_id = :order AND agent_id = :agent"
                " AND state = 'waiting'"
            ),
            {
                "order": result.order_id,
                "agent": result.agent_id,
                "state": result.state,
                "message": result.message[:2000],
                "image_id": result.image_id,
                "digest": result.digest,
            },
        )


async def end(engine: AsyncEngine, order_id: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE image_orders SET ended_at = now() WHERE id = :id AND ended_at IS NULL"), {"id": order_id}
        )
        await connection.execute(
            text(
                "UPDATE image_order_nodes SET state = 'failed', message = 'no result', ended_at = now()"
                " WHERE order_id = :id AND state = 'waiting'"
            ),
            {"id": order_id},
        )


async def unfinished(engine: AsyncEngine, older_than_s: float) -> list[ImageOrder]:
    """Old enough that their workflow must have been started. Those that ended long ago are forgotten."""
    async with engine.begin() as connection:
        await connection.execute(
            text("DELETE FROM image_orders WHERE ended_at < now() - make_interval(days => :days)"), {"days": KEPT_DAYS}
        )
        rows = await connection.execute(
            text(
                "SELECT o.id::text, o.kind, o.image, array_agg(n.agent_id ORDER BY n.agent_id) AS agents"
                " FROM image_orders o JOIN image_order_nodes n ON n.order_id = o.id WHERE o.ended_at IS NULL"
                " AND o.created_at < now() - make_interval(secs => :age) GROUP BY o.id LIMIT 1000"
            ),
            {"age": older_than_s},
        )
        return [ImageOrder(row.id, row.kind, row.image, list(row.agents)) for row in rows]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    ended = row["ended_at"]
    return {**row, "created_at": row["created_at"].isoformat(), "ended_at": ended.isoformat() if ended else None}
