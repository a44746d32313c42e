"""The ledger: every step of a session that moves resources, each in one transaction under a guard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.domain.resources import Slots
from moorage.domain.session import MOVES, TERMINAL, Ending, KernelSpec, NodeLossPolicy, Reason, SessionStatus
from moorage.scheduler.snapshot import NodeState, Placement, Refusal, Snapshot, WaitingKernel, WaitingSession
from moorage.seal import Seal

SCHEDULER_CHANNEL = "moorage_scheduler"
SESSION_CHANNEL = "moorage_session"
_S = SessionStatus
# A node that failed a session is avoided while another has room; the last few are remembered.
_REMEMBERED_FAILURES = 5


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


async def group_policy(engine: AsyncEngine, resource_group: str) -> tuple[str, str]:
    """The policy and selector in force."""
    async with engine.connect() as connection:
        row = (
            await connection.execute(
                text("SELECT policy, selector FROM resource_groups WHERE name = :name"), {"name": resource_group}
            )
        ).one()
        return str(row.policy), str(row.selector)


async def read_snapshot(engine: AsyncEngine, resource_group: str, *, limit: int = 10_000) -> Snapshot:
    """Nodes that may take work, and the waiting sessions (the `limit` first by priority and age)."""
    async with engine.connect() as connection:
        waiting = (
            await connection.execute(
                text(
                    "SELECT s.id, s.priority, extract(epoch FROM s.created_at)::float8 AS submitted, s.attempt,"
                    " s.avoid_agents, s.slots, k.id AS kernel_id FROM sessions s JOIN kernels k ON k.session_id = s.id"
                    " WHERE s.status = 'PENDING' AND s.resource_group = :name"
                    " ORDER BY s.priority DESC, s.created_at LIMIT :limit"
                ),
                {"name": resource_group, "limit": limit},
            )
        ).all()
        if not waiting:
            return Snapshot(time.time(), (), ())
        slots = (
            await connection.execute(
                text(
                    "SELECT a.id, a.architecture, c.slot, c.offered, c.used FROM agents a"
                    " JOIN agent_slots c ON c.agent_id = a.id"
                    " WHERE a.resource_group = :name AND a.status = 'ALIVE' AND a.schedulable"
                ),
                {"name": resource_group},
            )
        ).all()
    nodes: dict[str, NodeState] = {}
    for row in slots:
        node = nodes.setdefault(row.id, NodeState(row.id, {}, {}, True, row.architecture))
        node.capacity[row.slot] = row.offered
        node.used[row.slot] = row.used
    return Snapshot(
        now=time.time(),
        nodes=tuple(nodes.values()),
        waiting=tuple(
            WaitingSession(
                session_id=str(row.id),
                kernels=(WaitingKernel(str(row.kernel_id), dict(row.slots)),),
                priority=row.priority,
                submitted=row.submitted,
                attempt=row.attempt,
                avoid=frozenset(row.avoid_agents),
            )
            for row in waiting
        ),
    )


async def commit_placements(
    engine: AsyncEngine, resource_group: str, epoch: int, placements: Iterable[Placement], seal: Seal
) -> list[Assigned]:
    """Gives each session its slots, if the epoch is current. One that doesn't fit any more is left out, alone."""
    assigned: list[Assigned] = []
    async with engine.begin() as connection:
        await _check_epoch(connection, resource_group, epoch)
        for placement in placements:
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
                assigned.append(Assigned(row, kernel_specs(row, placement.kernels, seal)))
    return assigned


async def scheduled_but_silent(
    engine: AsyncEngine, resource_group: str, older_than_s: float, seal: Seal
) -> list[Assigned]:
    """Sessions that were placed and whose workflow has not moved since: their `assigned` may have been lost."""
    async with engine.connect() as connection:
        rows = (
            await connection.execute(
                text(
                    f"SELECT {_SESSION_COLUMNS}, k.id AS kernel_id, k.agent_id AS kernel_agent"
                    " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                    " JOIN kernels k ON k.session_id = s.id"
                    " WHERE s.status = 'SCHEDULED' AND s.resource_group = :name"
                    " AND s.status_changed < now() - make_interval(secs => :age) LIMIT 1000"
                ),
                {"name": resource_group, "age": older_than_s},
            )
        ).mappings()
        return [
            Assigned(dict(row), kernel_specs(dict(row), {str(row["kernel_id"]): row["kernel_agent"]}, seal))
            for row in rows
        ]


async def note_refusals(engine: AsyncEngine, refusals: Iterable[Refusal]) -> None:
    """Keeps why each session waits, writing only what changed."""
    rows = [{"id": refusal.session_id, "why": refusal.message} for refusal in refusals]
    if not rows:
        return
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "UPDATE sessions s SET waiting_because = w.why FROM jsonb_to_recordset(CAST(:rows AS jsonb))"
                " AS w(id uuid, why text) WHERE s.id = w.id AND s.status = 'PENDING' AND s.waiting_because <> w.why"
            ),
            {"rows": json.dumps(rows)},
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
    engine: AsyncEngine, session_id: str, attempt: int, *, reason: str, message: str, avoid: str, fenced: bool
) -> int:
    """PENDING again with the next attempt, its slots released (or fenced). Idempotent by (session, attempt)."""
    async with engine.begin() as connection:
        row = await _locked(connection, session_id)
        if _S(row["status"]) in TERMINAL or row["attempt"] != attempt:
            return int(row["attempt"])
        await _let_go(connection, session_id, fenced=fenced)
        await connection.execute(
            text(
                "UPDATE sessions SET avoid_agents = (array_append(array_remove(avoid_agents, :avoid), :avoid))"
                "[greatest(1, cardinality(avoid_agents) - :keep + 1):], agent_id = NULL WHERE id = :id"
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


async def finish(engine: AsyncEngine, session_id: str, ending: Ending, *, actor: str, fenced: bool) -> str:
    """The row is terminal and holds nothing (or what it holds is fenced). The first ending wins and is returned."""
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
        rows = (
            await connection.execute(
                text(
                    f"SELECT {_SESSION_COLUMNS}, k.id AS kernel_id, k.agent_id AS kernel_agent"
                    " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                    " JOIN kernels k ON k.session_id = s.id WHERE s.id = :id"
                ),
                {"id": session_id},
            )
        ).mappings()
        specs: list[KernelSpec] = []
        status, attempt = str(_S.CANCELLED), 0
        for row in rows:
            status, attempt = row["status"], row["attempt"]
            if row["kernel_agent"]:
                specs += kernel_specs(dict(row), {str(row["kernel_id"]): row["kernel_agent"]}, seal)
        return status, attempt, specs


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


def kernel_specs(row: Mapping[str, Any], placed: Mapping[str, str], seal: Seal) -> list[KernelSpec]:
    env: dict[str, str] = json.loads(seal.open(bytes(row["env"]))) if row["env"] else {}
    slots: Slots = dict(row["slots"])
    return [
        KernelSpec(
            session_id=str(row["id"]),
            kernel_id=kernel_id,
            attempt=row["attempt"],
            agent_id=agent_id,
            image=row["image"],
            command=list(row["command"]),
            env=env,
            slots=slots,
            session_name=row["name"],
            on_node_loss=NodeLossPolicy(row["on_node_loss"]),
        )
        for kernel_id, agent_id in placed.items()
    ]


_SESSION_COLUMNS = (
    "s.id, s.name, s.image, s.command, s.env, s.slots, s.attempt, s.status, s.resource_group, s.on_node_loss,"
    " s.pending_timeout_s, s.lifetime_s, s.batch_timeout_s, s.grace_s, s.type, u.email AS user, p.name AS project"
)


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
        await connection.execute(
            text(
                "WITH a AS (SELECT id FROM agents WHERE id = :agent AND status = 'ALIVE' AND schedulable FOR SHARE),"
                " k AS (UPDATE kernels SET agent_id = :agent, container_id = NULL WHERE id = :kernel)"
                " INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)"
                " SELECT :kernel, :attempt, slots.key, :session, a.id, slots.value::bigint"
                " FROM a, jsonb_each_text(CAST(:slots AS jsonb)) AS slots WHERE slots.value::bigint > 0"
            ),
            {
                "kernel": kernel_id,
                "agent": agent_id,
                "attempt": placement.attempt,
                "session": placement.session_id,
                "slots": json.dumps(dict(sorted(moved["slots"].items()))),
            },
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


async def _let_go(connection: AsyncConnection, session_id: str, *, fenced: bool) -> None:
    column = "fenced_at = COALESCE(fenced_at, now())" if fenced else "released_at = now()"
    guard = "" if fenced else " AND fenced_at IS NULL"
    await connection.execute(
        text(f"UPDATE allocations SET {column} WHERE session_id = :id AND released_at IS NULL{guard}"),
        {"id": session_id},
    )


async def _notify(connection: AsyncConnection, channel: str, payload: str) -> None:
    await connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})


def _sqlstate_name(error: BaseException) -> str:
    """`check_violation` for a slot that has no room any more, else the error's own words."""
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    return "check_violation" if state == "23514" or isinstance(error, NodeLeft) else str(state)
