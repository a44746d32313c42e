"""What a scheduling pass sees, read from the database in one consistent look."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.domain.images import tagged
from moorage.domain.resources import Slots
from moorage.scheduler.snapshot import (
    Changes,
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
    " WHERE s.status = 'PENDING' AND s.resource_group = :group"
)
_NODES = (
    "SELECT a.id, a.architecture, a.images, c.slot, c.offered, c.used FROM agents a"
    " JOIN agent_slots c ON c.agent_id = a.id"
    " WHERE a.resource_group = :group AND a.status = 'ALIVE' AND a.schedulable AND (:all OR a.id = ANY(:some))"
)
_DEVICES = (
    "SELECT d.agent_id, d.device_id, d.slot, d.total, d.used, d.numa, d.healthy, d.model FROM devices d"
    " JOIN agents a ON a.id = d.agent_id"
    " WHERE a.resource_group = :group AND a.status = 'ALIVE' AND a.schedulable AND (:all OR a.id = ANY(:some))"
    " ORDER BY d.agent_id, d.device_id"
)
_RUNNING = (
    "SELECT s.id::text, a.kernel_id::text, a.agent_id, jsonb_object_agg(a.slot, a.amount) AS slots,"
    f" extract(epoch FROM min(a.allocated_at))::float8 AS since, {_OWNER}, s.priority, s.job_priority, s.preemptible,"
    f" {_LIMIT_S}, s.status = 'TERMINATING' AS leaving{_OWNED} JOIN allocations a ON a.session_id = s.id"
    " WHERE a.released_at IS NULL AND a.fenced_at IS NULL AND a.attempt >= 0 AND s.resource_group = :group{some}"
    " GROUP BY s.id, a.kernel_id, a.agent_id, u.email, p.name ORDER BY s.id, a.kernel_id"
)
_HELD_DEVICES = (
    "SELECT d.kernel_id::text, jsonb_object_agg(d.device_id, d.amount) AS devices FROM device_allocations d"
    " JOIN kernels k ON k.id = d.kernel_id JOIN sessions s ON s.id = k.session_id"
    " WHERE d.released_at IS NULL AND d.attempt >= 0 AND s.resource_group = :group{some} GROUP BY d.kernel_id"
)
_HOLDS = (
    "SELECT session_id::text, kernels, victims::text[], extract(epoch FROM until)::float8 AS until FROM holds"
    " WHERE resource_group = :group AND until > now() ORDER BY session_id"
)
# Rows of their own, and those of whom a policy limits something, if they have sessions: of ten thousand users under one
# policy the pass looks only at those who are there.
_LIMITS = (
    "WITH live AS (SELECT DISTINCT s.access_key, s.user_id, s.project_id, s.domain FROM sessions s"
    "   WHERE s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR') AND EXISTS (SELECT 1 FROM policies"
    "     WHERE max_sessions IS NOT NULL OR max_slots <> '{}')),"
    " here AS (SELECT 'keypair' AS scope, access_key AS name FROM live"
    "   UNION SELECT 'user', u.email FROM live JOIN users u ON u.id = live.user_id"
    "   UNION SELECT 'project', p.domain || '/' || p.name FROM live JOIN projects p ON p.id = live.project_id"
    "   UNION SELECT scope, name FROM limits)"
    # OFFSET 0: one look by index for each of them, and never at all users.
    " SELECT q.* FROM here CROSS JOIN LATERAL (SELECT o.scope, o.name, o.max_sessions, o.max_slots, o.weight"
    "   FROM quotas o WHERE o.scope = here.scope AND o.name = here.name OFFSET 0) q"
    " WHERE q.max_sessions IS NOT NULL OR q.max_slots <> '{}' OR q.weight <> 1"
)
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


_MOMENT = "SELECT extract(epoch FROM now())::float8 AS now, pg_snapshot_xmin(pg_current_snapshot())::text AS xmin"
# Of sessions: themselves, what they hold, and those that wait for them. Of nodes: their rows, slots and devices.
_CHANGED_SESSIONS = (
    "SELECT s.id::text FROM sessions s WHERE s.resource_group = :group AND s.revision >= CAST(:since AS xid8)"
    " UNION SELECT s.id::text FROM allocations a JOIN sessions s ON s.id = a.session_id"
    " WHERE s.resource_group = :group AND a.revision >= CAST(:since AS xid8)"
    " UNION SELECT s.id::text FROM sessions t JOIN session_dependencies d ON d.depends_on = t.id"
    " JOIN sessions s ON s.id = d.session_id WHERE t.revision >= CAST(:since AS xid8) AND s.resource_group = :group"
)
_CHANGED_NODES = (
    "SELECT a.id FROM agents a WHERE a.revision >= CAST(:since AS xid8)"
    " UNION SELECT agent_id FROM agent_slots WHERE revision >= CAST(:since AS xid8)"
    " UNION SELECT agent_id FROM devices WHERE revision >= CAST(:since AS xid8)"
)
# Past use changes slowly, and what is held counts at once.
_DECAY_EVERY_S = 15.0


async def read_snapshot(engine: AsyncEngine, resource_group: str, *, half_life_s: float | None = None) -> Snapshot:
    """The group's nodes, queue, running sessions, tenants and holds at one moment, by the database's clock.

    Past use is read only where a `half_life_s` is given.
    """
    return await View(engine, resource_group, half_life_s=half_life_s).whole()


class View:
    """A resource group as a planner keeps it: read whole once, then only what has changed since."""

    def __init__(self, engine: AsyncEngine, resource_group: str, *, half_life_s: float | None = None) -> None:
        self._engine = engine
        self._group = resource_group
        self._half_life_s = half_life_s
        self._since = 0
        self._waiting: set[str] = set()
        self._running: set[str] = set()
        self._nodes: set[str] = set()
        self._victims: set[str] = set()
        self._tenants: dict[tuple[Scope, str], TenantState] = {}
        self._decayed: list[Mapping[str, Any]] = []
        self._decayed_at = -math.inf

    async def whole(self) -> Snapshot:
        async with self._look() as (connection, now):
            holds = await self._read_holds(connection)
            nodes = await self._read_nodes(connection, None)
            waiting, running = await self._read_sessions(connection, None)
            tenants = await self._read_tenants(connection, now)
            cursor = await self._read_cursor(connection)
        self._nodes = {node.agent_id for node in nodes}
        self._waiting = {one.session_id for one in waiting}
        self._running = {one.session_id for one in running}
        self._tenants = {(tenant.scope, tenant.name): tenant for tenant in tenants}
        return Snapshot(now, nodes, waiting, running, tenants, holds, cursor)

    async def changes(self) -> tuple[float, Changes]:
        """(now, what is different since the last look)."""
        before, victims_before = self._since, self._victims
        async with self._look() as (connection, now):
            holds = await self._read_holds(connection)
            since = {"group": self._group, "since": before}
            ids = set((await connection.execute(text(_CHANGED_SESSIONS), since)).scalars())
            ids |= victims_before ^ self._victims
            waiting, running = await self._read_sessions(connection, sorted(ids)) if ids else ((), ())
            agents = set((await connection.execute(text(_CHANGED_NODES), {"since": before})).scalars())
            nodes = await self._read_nodes(connection, sorted(agents)) if agents else ()
            tenants = await self._read_tenants(connection, now)
            cursor = await self._read_cursor(connection)
        there = {node.agent_id for node in nodes}
        now_waiting = {one.session_id for one in waiting}
        now_running = {one.session_id for one in running}
        changes = Changes(
            nodes=nodes,
            removed_nodes=tuple(sorted((agents & self._nodes) - there)),
            waiting=waiting,
            removed_waiting=tuple(sorted((ids & self._waiting) - now_waiting)),
            running=running,
            removed_running=tuple(sorted((ids & self._running) - now_running)),
            tenants=self._different(tenants),
            holds=holds,
            cursor=cursor,
        )
        self._nodes = (self._nodes - agents) | there
        self._waiting = (self._waiting - ids) | now_waiting
        self._running = (self._running - ids) | now_running
        return now, changes

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[tuple[AsyncConnection, float]]:
        """One moment of the database, its time, and from where on the next look must look again."""
        async with self._engine.connect() as connection:
            await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            row = (await connection.execute(text(_MOMENT))).one()
            yield connection, float(row.now)
            self._since = int(row.xmin)

    async def _read_holds(self, connection: AsyncConnection) -> tuple[Hold, ...]:
        holds = await _rows(connection, _HOLDS, {"group": self._group})
        self._victims = {victim for hold in holds for victim in hold["victims"]}
        return tuple(Hold(row["session_id"], row["kernels"], row["until"]) for row in holds)

    async def _read_nodes(self, connection: AsyncConnection, some: Sequence[str] | None) -> tuple[NodeState, ...]:
        which = {"group": self._group, "all": some is None, "some": list(some or ())}
        return _nodes(await _rows(connection, _NODES, which), await _rows(connection, _DEVICES, which))

    async def _read_sessions(
        self, connection: AsyncConnection, some: Sequence[str] | None
    ) -> tuple[tuple[WaitingSession, ...], tuple[RunningSession, ...]]:
        condition = "" if some is None else " AND s.id = ANY(CAST(:some AS uuid[]))"
        which: dict[str, Any] = {"group": self._group} | ({} if some is None else {"some": list(some)})
        waiting = await _rows(connection, _WAITING + condition, which)
        kernels = await _rows(connection, _RUNNING.replace("{some}", condition), which)
        devices = await _rows(connection, _HELD_DEVICES.replace("{some}", condition), which)
        return tuple(_waiting(row) for row in waiting), _running(kernels, devices, self._victims)

    async def _read_tenants(self, connection: AsyncConnection, now: float) -> tuple[TenantState, ...]:
        """Owners under a limit with what they hold, and whoever used something where that counts."""
        if self._half_life_s is not None and now - self._decayed_at > _DECAY_EVERY_S:
            which = {"group": self._group, "half_life": self._half_life_s}
            self._decayed, self._decayed_at = await _rows(connection, _DECAYED, which), now
        limits = await _rows(connection, _LIMITS, {})
        return _tenants(limits, await _rows(connection, _HELD, {}) if limits else [], self._decayed)

    async def _read_cursor(self, connection: AsyncConnection) -> str:
        query = text("SELECT cursor FROM resource_groups WHERE name = :group")
        return str((await connection.execute(query, {"group": self._group})).scalar_one_or_none() or "")

    def _different(self, tenants: Iterable[TenantState]) -> tuple[TenantState, ...]:
        """New states; whoever is under no limit any more and used nothing has none."""
        known = {(tenant.scope, tenant.name): tenant for tenant in tenants}
        gone = [TenantState(scope, name) for scope, name in self._tenants.keys() - known.keys()]
        different = [tenant for key, tenant in known.items() if self._tenants.get(key) != tenant]
        self._tenants = known
        return (*different, *gone)


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
        image=tagged(row["image"]),
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
        for key in limit_of.keys() & set(_scopes(_owner(row))):
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
