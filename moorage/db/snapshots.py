"""What a scheduling pass sees, read from the database in one consistent look."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.domain.resources import Slots
from moorage.scheduler.snapshot import (
    ClusterMode,
    DeviceState,
    Hold,
    NodeState,
    Owner,
    RunningKernel,
    RunningSession,
    Scope,
    Snapshot,
    TenantState,
    WaitingKernel,
    WaitingSession,
)

_LOOK_BACK_DAYS = 28
_OWNER = "u.email, s.domain || '/' || p.name AS project, s.domain, s.access_key"
_OWNED = " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
_UNMET = (
    "SELECT array_agg(t.name ORDER BY t.name, t.id) AS unmet FROM session_dependencies d JOIN sessions t"
    " ON t.id = d.depends_on WHERE d.session_id = s.id AND CASE s.on_dependency_failure"
    " WHEN 'run' THEN t.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
    " ELSE t.status <> 'TERMINATED' OR t.result <> 'SUCCESS' END"
)
_LIMIT_S = "LEAST(NULLIF(s.lifetime_s, 0), NULLIF(s.batch_timeout_s, 0)) AS time_limit_s"

_WAITING = (
    f"SELECT s.id::text, s.priority, extract(epoch FROM s.created_at)::float8 AS submitted, s.attempt, s.avoid_agents,"
    f" s.slots, {_OWNER}, s.type, s.image, s.architecture, s.cluster_mode, s.designated,"
    f" extract(epoch FROM s.not_before)::float8 AS not_before, {_LIMIT_S}, s.skips, s.job_priority, s.preemptible,"
    " (SELECT array_agg(k.id::text ORDER BY k.role, k.idx) FROM kernels k WHERE k.session_id = s.id) AS kernels,"
    f" w.unmet{_OWNED} LEFT JOIN LATERAL ({_UNMET}) w ON true"
    " WHERE s.status = 'PENDING' AND s.resource_group = :group ORDER BY s.priority DESC, s.created_at LIMIT :limit"
)
_NODES = (
    "SELECT a.id, a.architecture, a.images, c.slot, c.offered, c.used FROM agents a"
    " JOIN agent_slots c ON c.agent_id = a.id"
    " WHERE a.resource_group = :group AND a.status = 'ALIVE' AND a.schedulable"
)
_DEVICES = (
    "SELECT d.agent_id, d.device_id, d.slot, d.total, d.used, d.numa, d.healthy, d.model FROM devices d"
    " JOIN agents a ON a.id = d.agent_id"
    " WHERE a.resource_group = :group AND a.status = 'ALIVE' AND a.schedulable ORDER BY d.agent_id, d.device_id"
)
_RUNNING = (
    "SELECT s.id::text, a.kernel_id::text, a.agent_id, jsonb_object_agg(a.slot, a.amount) AS slots,"
    f" extract(epoch FROM min(a.allocated_at))::float8 AS since, {_OWNER}, s.priority, s.job_priority, s.preemptible,"
    f" {_LIMIT_S}, s.status = 'TERMINATING' AS leaving{_OWNED} JOIN allocations a ON a.session_id = s.id"
    " WHERE a.released_at IS NULL AND a.fenced_at IS NULL AND s.resource_group = :group"
    " GROUP BY s.id, a.kernel_id, a.agent_id, u.email, p.name ORDER BY s.id, a.kernel_id"
)
_HELD_DEVICES = (
    "SELECT d.kernel_id::text, jsonb_object_agg(d.device_id, d.amount) AS devices FROM device_allocations d"
    " JOIN agents a ON a.id = d.agent_id WHERE d.released_at IS NULL AND a.resource_group = :group GROUP BY d.kernel_id"
)
_HOLDS = (
    "SELECT session_id::text, kernels, victims::text[], extract(epoch FROM until)::float8 AS until FROM holds"
    " WHERE resource_group = :group AND until > now() ORDER BY session_id"
)
_LIMITS = "SELECT scope, name, max_sessions, max_slots, weight FROM limits"
# Over the whole cluster: a limit is not one for each resource group.
_HELD = (
    f"SELECT {_OWNER}, a.slot, sum(a.amount)::bigint AS amount, count(DISTINCT s.id) AS sessions{_OWNED}"
    " JOIN allocations a ON a.session_id = s.id WHERE a.released_at IS NULL AND a.fenced_at IS NULL"
    " GROUP BY u.email, p.name, s.domain, s.access_key, a.slot"
)
# ∫ amount · 2^(−(now − t) / h) dt over the time it was held, in closed form. Measured from the allocations themselves:
# there is no counter that could drift, and a restart forgets nothing.
_DECAYED = (
    "SELECT u.email, s.domain || '/' || p.name AS project, s.domain, a.slot,"
    " sum(a.amount * (:half_life / ln(2)) * ("
    " power(2, -extract(epoch FROM now() - COALESCE(a.released_at, a.fenced_at, now()))::float8 / :half_life)"
    " - power(2, -extract(epoch FROM now() - a.allocated_at)::float8 / :half_life))) AS used"
    f"{_OWNED} JOIN allocations a ON a.session_id = s.id WHERE s.resource_group = :group"
    f" AND (a.released_at IS NULL OR a.released_at > now() - interval '{_LOOK_BACK_DAYS} days')"
    " GROUP BY u.email, p.name, s.domain, a.slot"
)


async def read_snapshot(
    engine: AsyncEngine,
    resource_group: str,
    *,
    half_life_s: float | None = None,
    limit: int = 200_000,
    even_if_empty: bool = False,
) -> Snapshot:
    """The group's nodes, queue, running sessions, tenants and holds at one moment, by the database's clock.

    Past use is read only where a `half_life_s` is given. A queue beyond `limit` is cut behind its first ones. If
    nobody waits, the rest is read only `even_if_empty`.
    """
    async with engine.connect() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        now = float(
            (await connection.execute(text("SELECT extract(epoch FROM now())::float8"))).scalar_one()  # also the start
        )
        of_group = {"group": resource_group}
        waiting = await _rows(connection, _WAITING, {**of_group, "limit": limit})
        if not waiting and not even_if_empty:
            return Snapshot(now, (), ())
        nodes = _nodes(await _rows(connection, _NODES, of_group), await _rows(connection, _DEVICES, of_group))
        holds = await _rows(connection, _HOLDS, of_group)
        victims = {victim for hold in holds for victim in hold["victims"]}
        running = _running(
            await _rows(connection, _RUNNING, of_group), await _rows(connection, _HELD_DEVICES, of_group), victims
        )
        decayed = (
            await _rows(connection, _DECAYED, {**of_group, "half_life": half_life_s}) if half_life_s is not None else []
        )
        tenants = _tenants(await _rows(connection, _LIMITS, {}), await _rows(connection, _HELD, {}), decayed)
        cursor = await connection.execute(text("SELECT cursor FROM resource_groups WHERE name = :group"), of_group)
        return Snapshot(
            now=now,
            nodes=nodes,
            waiting=tuple(_waiting(row) for row in waiting),
            running=running,
            tenants=tenants,
            holds=tuple(Hold(row["session_id"], row["kernels"], row["until"]) for row in holds),
            cursor=str(cursor.scalar_one_or_none() or ""),
        )


async def _rows(connection: AsyncConnection, query: str, values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [dict(row) for row in (await connection.execute(text(query), dict(values))).mappings()]


def _waiting(row: Mapping[str, Any]) -> WaitingSession:
    slots: Slots = dict(row["slots"])
    return WaitingSession(
        session_id=row["id"],
        kernels=tuple(WaitingKernel(kernel_id, slots) for kernel_id in row["kernels"]),
        priority=row["priority"],
        submitted=row["submitted"],
        attempt=row["attempt"],
        avoid=frozenset(row["avoid_agents"]),
        owner=_owner(row),
        session_type=row["type"],
        image=row["image"],
        architecture=row["architecture"],
        cluster_mode=ClusterMode(row["cluster_mode"]),
        designated=frozenset(row["designated"]),
        not_before=row["not_before"] or 0.0,
        unmet=tuple(row["unmet"] or ()),
        time_limit_s=row["time_limit_s"],
        skips=row["skips"],
        job_priority=row["job_priority"],
        preemptible=row["preemptible"],
    )


def _owner(row: Mapping[str, Any]) -> Owner:
    return Owner(row["email"], row["project"], row["domain"], row["access_key"])


def _nodes(slots: Sequence[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]]) -> tuple[NodeState, ...]:
    of_node: dict[str, list[DeviceState]] = defaultdict(list)
    for row in devices:
        of_node[row["agent_id"]].append(
            DeviceState(
                row["device_id"], row["slot"], row["total"], row["used"], row["numa"], row["healthy"], row["model"]
            )
        )
    nodes: dict[str, NodeState] = {}
    for row in slots:
        found = nodes.get(row["id"])
        if found is None:
            found = nodes[row["id"]] = NodeState(
                row["id"],
                {},
                {},
                architecture=row["architecture"],
                devices=tuple(of_node[row["id"]]),
                images=frozenset(row["images"]),
            )
        found.capacity[row["slot"]] = row["offered"]
        found.used[row["slot"]] = row["used"]
    return tuple(nodes.values())


def _running(
    kernels: Sequence[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]], victims: set[str]
) -> tuple[RunningSession, ...]:
    held = {row["kernel_id"]: row["devices"] for row in devices}
    of_session: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in kernels:
        of_session[row["id"]].append(row)
    return tuple(
        RunningSession(
            session_id=session_id,
            kernels=tuple(
                RunningKernel(row["kernel_id"], row["agent_id"], row["slots"], held.get(row["kernel_id"], {}))
                for row in rows
            ),
            since=min(row["since"] for row in rows),
            owner=_owner(rows[0]),
            priority=rows[0]["priority"],
            job_priority=rows[0]["job_priority"],
            preemptible=rows[0]["preemptible"],
            time_limit_s=rows[0]["time_limit_s"],
            leaving=rows[0]["leaving"] or session_id in victims,
        )
        for session_id, rows in of_session.items()
    )


def _tenants(
    limits: Sequence[Mapping[str, Any]], held: Sequence[Mapping[str, Any]], decayed: Sequence[Mapping[str, Any]]
) -> tuple[TenantState, ...]:
    limit_of = {(Scope(row["scope"]), row["name"]): row for row in limits}
    slots: dict[tuple[Scope, str], Slots] = defaultdict(lambda: defaultdict(int))
    sessions: dict[tuple[Scope, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in held:
        for key in _scopes(_owner(row)):
            slots[key][row["slot"]] += row["amount"]
            sessions[key][row["slot"]] += row["sessions"]
    past: dict[tuple[Scope, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    email_of: dict[str, str] = {}
    for row in decayed:
        pair = f"{row['email']}@{row['project']}"
        email_of[pair] = row["email"]
        for key in ((Scope.USER, pair), (Scope.PROJECT, row["project"]), (Scope.DOMAIN, row["domain"])):
            past[key][row["slot"]] += row["used"]

    def tenant(scope: Scope, name: str) -> TenantState:
        key = (scope, name)
        # A user's weight holds in each of its projects.
        limit = limit_of.get(key) or {}
        weighed = limit_of.get((scope, email_of.get(name, name))) or {}
        return TenantState(
            scope=scope,
            name=name,
            max_sessions=limit.get("max_sessions"),
            max_slots=dict(limit.get("max_slots", {})),
            weight=float(weighed.get("weight", 1.0)),
            held=dict(slots.get(key, {})),
            # Every session holds cores, so the slot that most of them hold counts them all.
            sessions=max(sessions[key].values()) if key in sessions else 0,
            decayed=dict(past.get(key, {})),
        )

    return tuple(tenant(scope, name) for scope, name in sorted({*limit_of, *slots, *past}))


def _scopes(owner: Owner) -> list[tuple[Scope, str]]:
    return [
        (Scope.KEYPAIR, owner.keypair),
        (Scope.USER, owner.user),
        (Scope.PROJECT, owner.project),
        (Scope.DOMAIN, owner.domain),
    ]
