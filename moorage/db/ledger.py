"""The ledger: every step of a session that moves resources, each in one transaction under a guard."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.domain.session import IDLE, MOVES, TERMINAL, Ending, KernelSpec, NodeLossPolicy, Reason, SessionStatus
from moorage.scheduler.snapshot import Decisions, Placement, Preemption, Refusal
from moorage.seal import Seal

SCHEDULER_CHANNEL = "moorage_scheduler"
SESSION_CHANNEL = "moorage_session"
_S = SessionStatus
# A node that failed a session is avoided while another has room; the last few are remembered.
_REMEMBERED_FAILURES = 5
_NOTED_AT_ONCE = 5000


class StaleEpoch(Exception):
    """Another scheduler has taken the resource group over; this one must stop."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A session whose placement is committed, with what its workflow needs."""

    row: Mapping[str, Any]
    kernels: list[KernelSpec]


async def take_epoch(engine: AsyncEngine, resource_group: str) -> int:
    """The next epoch of the group; commits with an older one fail from now on."""
    async with engine.begin() as connection:
        result = await connection.execute(
            text("UPDATE resource_groups SET epoch = epoch + 1 WHERE name = :name RETURNING epoch"),
            {"name": resource_group},
        )
        return int(result.scalar_one())


async def commit_decisions(
    engine: AsyncEngine,
    resource_group: str,
    epoch: int,
    decisions: Decisions,
    seal: Seal,
    *,
    requeue_victims: bool = False,
) -> list[Assigned]:
    """Gives each session its slots and devices, if the epoch is current. One that no longer fits is left out, alone.

    Keeps holds, skip counts and the cursor in the same transaction.
    """
    assigned: list[Assigned] = []
    async with engine.begin() as connection:
        await _check_epoch(connection, resource_group, epoch)
        agents = {agent_id for placement in decisions.placements for agent_id in placement.kernels.values()}
        await _lock_slots(connection, agents)
        for placement in decisions.placements:
            savepoint = await connection.begin_nested()
            try:
                row = await _allocate(connection, placement)
            except Exception as error:
                await savepoint.rollback()
                if "check_violation" in _sqlstate_name(error):
                    continue
                raise
            await savepoint.commit()
            if row is not None:
                assigned.append(Assigned(row, kernel_specs(row, placement.kernels, placement.devices, seal)))
        for preemption in decisions.preemptions:
            await _keep_hold(connection, resource_group, preemption, requeue_victims)
        await _keep_count(connection, resource_group, decisions, [str(one.row["id"]) for one in assigned])
    return assigned


@dataclass(frozen=True, slots=True)
class Victim:
    """A session that must give its room up, and for whom."""

    session_id: str
    attempt: int
    for_session: str
    for_name: str
    requeue: bool


async def victims(engine: AsyncEngine, resource_group: str) -> list[Victim]:
    """Sessions that hold room which is promised to others; they are told until they have left."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT v.id::text AS session_id, v.attempt, h.session_id::text AS for_session, s.name AS for_name,"
                " h.mode = 'requeue' AS requeue FROM holds h JOIN sessions s ON s.id = h.session_id"
                " JOIN sessions v ON v.id = ANY(h.victims)"
                " WHERE h.resource_group = :group AND h.until > now()"
                " AND v.status IN ('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING')"
            ),
            {"group": resource_group},
        )
        return [Victim(**row) for row in rows.mappings()]


async def with_failed_dependencies(engine: AsyncEngine, resource_group: str) -> list[tuple[Mapping[str, Any], str]]:
    """(row, the name of what failed) of waiting sessions that must not run any more."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT DISTINCT ON (s.id) {_SESSION_COLUMNS}, t.name AS failed FROM sessions s"
                " JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                " JOIN session_dependencies d ON d.session_id = s.id JOIN sessions t ON t.id = d.depends_on"
                " WHERE s.status = 'PENDING' AND s.resource_group = :group AND s.on_dependency_failure = 'cancel'"
                " AND t.status IN ('TERMINATED', 'CANCELLED', 'ERROR') AND t.result <> 'SUCCESS' ORDER BY s.id, t.name"
            ),
            {"group": resource_group},
        )
        return [(dict(row), row["failed"]) for row in rows.mappings()]


async def scheduled_but_silent(
    engine: AsyncEngine, resource_group: str, older_than_s: float, seal: Seal
) -> list[Assigned]:
    """Sessions that were placed and whose workflow has not moved since: their `assigned` may have been lost."""
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                text(
                    f"SELECT {_SESSION_COLUMNS}, {_PLACED}"
                    " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                    " WHERE s.status = 'SCHEDULED' AND s.resource_group = :name"
                    " AND s.status_changed < now() - make_interval(secs => :age) LIMIT 1000"
                ),
                {"name": resource_group, "age": older_than_s},
            )
        ).mappings()
        return [Assigned(row, kernel_specs(row, *_placed(row), seal)) for row in map(dict, rows)]


async def note_refusals(engine: AsyncEngine, refusals: Sequence[Refusal]) -> None:
    """Keeps why sessions wait, in words."""
    rows = [{"id": one.session_id, "cause": str(one.cause), "why": one.message} for one in refusals]
    for first in range(0, len(rows), _NOTED_AT_ONCE):
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "UPDATE sessions s SET waiting_because = w.why, waiting_cause = w.cause"
                    " FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS w(id uuid, cause text, why text)"
                    " WHERE s.id = w.id AND s.status = 'PENDING'"
                    " AND (s.waiting_cause <> w.cause OR s.waiting_because <> w.why)"
                ),
                {"rows": json.dumps(rows[first : first + _NOTED_AT_ONCE])},
            )


async def move(
    engine: AsyncEngine,
    session_id: str,
    attempt: int,
    to: SessionStatus,
    *,
    actor: str = "workflow",
    reason: str = "",
    message: str = "",
) -> bool:
    """True if the row has the status now; False if its attempt is over or the move isn't allowed."""
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        if row["attempt"] != attempt or _S(row["status"]) in TERMINAL:
            return False
        if row["status"] == to:
            return True
        if to not in MOVES[_S(row["status"])]:
            return False
        await _set_status(connection, row, to, actor=actor, reason=reason, message=message)
        return True


async def record_started(
    engine: AsyncEngine, session_id: str, attempt: int, containers: Mapping[str, str], message: str
) -> bool:
    """The row is RUNNING with its containers' ids. Idempotent by (session, attempt)."""
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        if row["attempt"] != attempt or _S(row["status"]) in TERMINAL | {_S.TERMINATING, _S.PENDING}:
            return False
        if row["status"] == _S.RUNNING:
            return True
        if row["status"] in (_S.SCHEDULED, _S.PREPARING):
            row = await _set_status(connection, row, _S.CREATING, actor="workflow")
        for kernel_id, container_id in containers.items():
            await connection.execute(
                text("UPDATE kernels SET container_id = :container WHERE id = :id"),
                {"id": kernel_id, "container": container_id},
            )
        await _set_status(
            connection,
            row,
            _S.RUNNING,
            actor="workflow",
            message=message,
            extra=", started_at = COALESCE(started_at, now())",
        )
        return True


async def requeue(
    engine: AsyncEngine,
    session_id: str,
    attempt: int,
    *,
    reason: str,
    message: str,
    avoid: str = "",
    fenced: Collection[str] = (),
) -> int:
    """PENDING again with the next attempt, its slots released (on `fenced` agents: held until proven gone).

    Idempotent by (session, attempt). A node to `avoid` is tried last from now on.
    """
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        if _S(row["status"]) in TERMINAL or row["attempt"] != attempt:
            return int(row["attempt"])
        await _let_go(connection, session_id, fenced=fenced)
        await connection.execute(
            text(
                "UPDATE sessions SET avoid_agents = CASE WHEN :avoid = '' THEN avoid_agents ELSE"
                " (array_append(array_remove(avoid_agents, :avoid), :avoid))"
                "[greatest(1, cardinality(avoid_agents) - :keep + 1):] END, agent_id = NULL WHERE id = :id"
            ),
            {"avoid": avoid, "keep": _REMEMBERED_FAILURES, "id": session_id},
        )
        await connection.execute(text("UPDATE kernels SET agent_id = NULL WHERE session_id = :id"), {"id": session_id})
        await _set_status(
            connection,
            row,
            _S.PENDING,
            actor="workflow",
            reason=reason,
            message=message,
            extra=", attempt = attempt + 1",
        )
        await _notify(connection, SCHEDULER_CHANNEL, row["resource_group"])
        return attempt + 1


async def finish(
    engine: AsyncEngine, session_id: str, ending: Ending, *, actor: str, fenced: Collection[str] = ()
) -> str:
    """The row is terminal and holds nothing (on `fenced` agents: until proven gone). The first ending wins."""
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        status = _S(row["status"])
        if status in TERMINAL:
            return str(status)
        await _let_go(connection, session_id, fenced=fenced)
        end = _S(ending.status)
        if end is _S.CANCELLED and status not in (_S.PENDING, _S.SCHEDULED, _S.TERMINATING):
            end = _S.TERMINATED
        elif end is _S.TERMINATED and status is _S.PENDING:
            end = _S.CANCELLED  # it held nothing, so there is nothing to terminate
        if end not in MOVES[status]:
            row = await _set_status(connection, row, _S.TERMINATING, actor=actor, reason=ending.reason)
        await _set_status(
            connection,
            row,
            end,
            actor=actor,
            reason=ending.reason,
            message=ending.message,
            extra=", reason = :reason, result = :result, exit_code = :exit_code, terminated_at = now()",
            values={"result": ending.result, "exit_code": ending.exit_code},
        )
        await _notify(connection, SCHEDULER_CHANNEL, row["resource_group"])
        return str(end)


async def session_state(engine: AsyncEngine, session_id: str, seal: Seal) -> tuple[str, int, list[KernelSpec]]:
    """Status, attempt, and the kernels with the nodes they were placed on."""
    async with engine.connect() as connection:
        row = (
            (
                await connection.execute(
                    text(
                        f"SELECT {_SESSION_COLUMNS}, {_PLACED}"
                        " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                        " WHERE s.id = :id"
                    ),
                    {"id": session_id},
                )
            )
            .mappings()
            .one_or_none()
        )
    if row is None:
        return str(_S.CANCELLED), 0, []
    found = dict(row)
    return found["status"], found["attempt"], kernel_specs(found, *_placed(found), seal)


async def start_row(engine: AsyncEngine, session_id: str) -> Mapping[str, Any]:
    """What starting or telling the session's workflow needs."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {_SESSION_COLUMNS} FROM sessions s JOIN users u ON u.id = s.user_id"
                " JOIN projects p ON p.id = s.project_id WHERE s.id = :id"
            ),
            {"id": session_id},
        )
        return dict(rows.mappings().one())


async def without_workflow(engine: AsyncEngine, older_than_s: float) -> list[Mapping[str, Any]]:
    """Live sessions old enough that their workflow must have been started by now."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {_SESSION_COLUMNS} FROM sessions s JOIN users u ON u.id = s.user_id"
                " JOIN projects p ON p.id = s.project_id"
                " WHERE s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
                " AND s.status_changed < now() - make_interval(secs => :age) LIMIT 10000"
            ),
            {"age": older_than_s},
        )
        return [dict(row) for row in rows.mappings()]


def kernel_specs(
    row: Mapping[str, Any], placed: Mapping[str, str], devices: Mapping[str, Mapping[str, int]], seal: Seal
) -> list[KernelSpec]:
    """The kernels that have a node, the main one first; a gang's others idle, its command runs in the main one."""
    env: dict[str, str] = json.loads(seal.open(bytes(row["env"]))) if row["env"] else {}
    hosts = [f"{kernel['role']}{kernel['idx']}" for kernel in row["kernels"]]
    return [
        KernelSpec(
            session_id=str(row["id"]),
            kernel_id=kernel["id"],
            attempt=row["attempt"],
            agent_id=placed[kernel["id"]],
            image=row["image"],
            command=list(row["command"]) if kernel["role"] == "main" else list(IDLE),
            env=env,
            slots=dict(row["slots"]),
            session_name=row["name"],
            hostname=host,
            on_node_loss=NodeLossPolicy(row["on_node_loss"]),
            role=kernel["role"],
            index=kernel["idx"],
            cluster=hosts,
            devices=dict(devices.get(kernel["id"], {})),
        )
        for kernel, host in zip(row["kernels"], hosts, strict=True)
        if kernel["id"] in placed
    ]


_SESSION_COLUMNS = (
    "s.id, s.name, s.image, s.command, s.env, s.slots, s.attempt, s.status, s.resource_group, s.on_node_loss,"
    " s.pending_timeout_s, s.lifetime_s, s.batch_timeout_s, s.grace_s, s.type, u.email AS user, p.name AS project,"
    " (SELECT jsonb_agg(jsonb_build_object('id', k.id, 'role', k.role, 'idx', k.idx, 'agent', k.agent_id)"
    "   ORDER BY k.role, k.idx) FROM kernels k WHERE k.session_id = s.id) AS kernels"
)
_PLACED = (
    "(SELECT jsonb_object_agg(d.kernel_id, d.held) FROM (SELECT kernel_id, jsonb_object_agg(device_id, amount) AS held"
    " FROM device_allocations WHERE attempt = s.attempt AND kernel_id IN"
    " (SELECT id FROM kernels WHERE session_id = s.id) GROUP BY kernel_id) d) AS devices"
)


def _placed(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """(kernel → node, kernel → its devices), by the row."""
    return {one["id"]: one["agent"] for one in row["kernels"] if one["agent"]}, dict(row["devices"] or {})


async def _check_epoch(connection: AsyncConnection, resource_group: str, epoch: int) -> None:
    found = await connection.execute(
        text("SELECT epoch FROM resource_groups WHERE name = :name FOR SHARE"), {"name": resource_group}
    )
    if found.scalar_one() != epoch:
        raise StaleEpoch(f"resource group {resource_group} is at a newer epoch than {epoch}")


async def _allocate(connection: AsyncConnection, placement: Placement) -> Mapping[str, Any] | None:
    """PENDING → SCHEDULED with its allocations; None if the session left the queue meanwhile."""
    first_agent = next(iter(placement.kernels.values()))
    moved = (
        (
            await connection.execute(
                text(
                    "WITH s AS (UPDATE sessions SET status = 'SCHEDULED', status_changed = clock_timestamp(),"
                    " agent_id = :agent, waiting_because = '', status_info = '' WHERE id = :id AND status = 'PENDING'"
                    " AND attempt = :attempt RETURNING *), t AS (INSERT INTO transitions"
                    " (session_id, seq, from_status, to_status, actor, reason, message, attempt)"
                    " SELECT id, (SELECT max(seq) + 1 FROM transitions WHERE session_id = :id), 'PENDING', 'SCHEDULED',"
                    " 'scheduler', '', 'on ' || CAST(:agent AS text), attempt FROM s)"
                    f" SELECT {_SESSION_COLUMNS} FROM s JOIN users u ON u.id = s.user_id"
                    " JOIN projects p ON p.id = s.project_id"
                ),
                {"id": placement.session_id, "attempt": placement.attempt, "agent": first_agent},
            )
        )
        .mappings()
        .one_or_none()
    )
    if moved is None:
        return None
    for kernel_id, agent_id in placement.kernels.items():
        of_kernel = {"kernel": kernel_id, "agent": agent_id, "attempt": placement.attempt}
        await connection.execute(
            text(
                "WITH a AS (SELECT id FROM agents WHERE id = :agent AND status = 'ALIVE' AND schedulable FOR SHARE),"
                " k AS (UPDATE kernels SET agent_id = :agent, container_id = NULL WHERE id = :kernel)"
                " INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)"
                " SELECT :kernel, :attempt, slots.key, :session, a.id, slots.value::bigint"
                " FROM a, jsonb_each_text(CAST(:slots AS jsonb)) AS slots WHERE slots.value::bigint > 0"
            ),
            {
                **of_kernel,
                "session": placement.session_id,
                "slots": json.dumps(dict(sorted(moved["slots"].items()))),
            },
        )
        if devices := placement.devices.get(kernel_id):
            await connection.execute(
                text(
                    "INSERT INTO device_allocations (kernel_id, attempt, agent_id, device_id, slot, amount)"
                    " SELECT :kernel, :attempt, d.agent_id, d.device_id, d.slot, w.value::int FROM devices d"
                    " JOIN jsonb_each_text(CAST(:devices AS jsonb)) AS w ON w.key = d.device_id"
                    " WHERE d.agent_id = :agent ORDER BY d.device_id"
                ),
                {**of_kernel, "devices": json.dumps(dict(devices))},
            )
    held = await connection.execute(
        text("SELECT count(DISTINCT kernel_id) FROM allocations WHERE session_id = :id AND attempt = :attempt"),
        {"id": placement.session_id, "attempt": placement.attempt},
    )
    if held.scalar_one() != len(placement.kernels):
        raise NodeLeft("check_violation: the node left between decision and commit")
    await _notify(connection, SESSION_CHANNEL, placement.session_id)
    return dict(moved)


class NodeLeft(Exception):
    """The chosen node is not there any more; the session stays in the queue."""


async def _locked(connection: AsyncConnection, session_id: str) -> Mapping[str, Any]:
    row = await connection.execute(
        text("SELECT id, status, attempt, resource_group FROM sessions WHERE id = :id FOR UPDATE"), {"id": session_id}
    )
    return dict(row.mappings().one())


async def _set_status(
    connection: AsyncConnection,
    row: Mapping[str, Any],
    to: SessionStatus,
    *,
    actor: str,
    reason: str = Reason.NONE,
    message: str = "",
    extra: str = "",
    values: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """Writes the status and its transition in one statement; the row must be locked."""
    await connection.execute(
        text(
            "WITH s AS (UPDATE sessions SET status = :to, status_info = :message, status_changed = clock_timestamp()"
            f"{extra} WHERE id = :id RETURNING id, attempt)"
            " INSERT INTO transitions (session_id, seq, from_status, to_status, actor, reason, message, attempt)"
            " SELECT id, (SELECT max(seq) + 1 FROM transitions WHERE session_id = :id), :from, :to, :actor, :reason,"
            " :message, attempt FROM s"
        ),
        {
            "id": str(row["id"]),
            "from": row["status"],
            "to": str(to),
            "actor": actor,
            "reason": str(reason),
            "message": message,
            **(values or {}),
        },
    )
    await _notify(connection, SESSION_CHANNEL, str(row["id"]))
    return {**row, "status": str(to)}


async def _let_go(connection: AsyncConnection, session_id: str, *, fenced: Collection[str]) -> None:
    """Releases what the session holds; on the fenced agents it stays held until the node proves its container gone."""
    agents = await connection.execute(
        text("SELECT DISTINCT agent_id FROM allocations WHERE session_id = :id AND released_at IS NULL"),
        {"id": session_id},
    )
    await _lock_slots(connection, list(agents.scalars()))
    await connection.execute(
        text(
            "UPDATE allocations SET fenced_at = now() WHERE session_id = :id AND released_at IS NULL"
            " AND fenced_at IS NULL AND agent_id = ANY(:fenced)"
        ),
        {"id": session_id, "fenced": list(fenced)},
    )
    await connection.execute(
        text(
            "UPDATE allocations SET released_at = now() WHERE session_id = :id AND released_at IS NULL"
            " AND fenced_at IS NULL"
        ),
        {"id": session_id},
    )


async def _lock_slots(connection: AsyncConnection, agents: Collection[str]) -> None:
    """Always in the same order, so that a pass and an end never wait for each other."""
    await connection.execute(
        text("SELECT 1 FROM agent_slots WHERE agent_id = ANY(:agents) ORDER BY agent_id, slot FOR UPDATE"),
        {"agents": list(agents)},
    )


async def _keep_hold(
    connection: AsyncConnection, resource_group: str, preemption: Preemption, requeue_victims: bool
) -> None:
    """Room for one session; its victims are told by `victims` until they have left. Undone by time, or by its start."""
    await connection.execute(
        text(
            "INSERT INTO holds (session_id, resource_group, kernels, victims, mode, until) VALUES (:id, :group,"
            " CAST(:kernels AS jsonb), CAST(:victims AS uuid[]), :mode, to_timestamp(:until))"
            " ON CONFLICT (session_id) DO UPDATE SET kernels = excluded.kernels, victims = excluded.victims,"
            " until = excluded.until"
        ),
        {
            "id": preemption.hold.session_id,
            "group": resource_group,
            "kernels": json.dumps(dict(preemption.hold.kernels)),
            "victims": list(preemption.victims),
            "mode": "requeue" if requeue_victims else "terminate",
            "until": preemption.hold.until,
        },
    )


async def _keep_count(
    connection: AsyncConnection, resource_group: str, decisions: Decisions, started: Sequence[str]
) -> None:
    """Who was passed, where roundrobin stopped, and which holds and estimates are fulfilled or over."""
    if decisions.skipped:
        await connection.execute(
            text("UPDATE sessions SET skips = skips + 1 WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'PENDING'"),
            {"ids": list(decisions.skipped)},
        )
    if decisions.cursor:
        await connection.execute(
            text("UPDATE resource_groups SET cursor = :cursor WHERE name = :name AND cursor <> :cursor"),
            {"cursor": decisions.cursor, "name": resource_group},
        )
    if started:
        ids = {"ids": list(started)}
        await connection.execute(text("DELETE FROM holds WHERE session_id = ANY(CAST(:ids AS uuid[]))"), ids)
        await connection.execute(
            text("UPDATE estimates SET started_at = now() WHERE session_id = ANY(CAST(:ids AS uuid[]))"), ids
        )
    await connection.execute(
        text(
            "DELETE FROM holds h USING sessions s WHERE s.id = h.session_id AND h.resource_group = :name"
            " AND (h.until <= now() OR s.status <> 'PENDING')"
        ),
        {"name": resource_group},
    )


async def _notify(connection: AsyncConnection, channel: str, payload: str) -> None:
    await connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


def _sqlstate_name(error: BaseException) -> str:
    """`check_violation` for a slot that has no room any more, else the error's own words."""
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    return "check_violation" if state == "23514" or isinstance(error, NodeLeft) else str(state)
