"""The ledger: every step of a session that moves resources, each in one transaction under a guard."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage import ssh_keys
from moorage.db import networks
from moorage.db.secrets import OF_A_SESSION, opened
from moorage.db.usage import keep
from moorage.domain.health import health_check
from moorage.domain.idle import IdlePolicy
from moorage.domain.network import KernelNetwork
from moorage.domain.session import IDLE, MOVES, TERMINAL, Ending, KernelSpec, NodeLossPolicy, Reason, SessionStatus
from moorage.domain.usage import KernelUsage
from moorage.seal import Seal

SCHEDULER_CHANNEL = "moorage_scheduler"
SESSION_CHANNEL = "moorage_session"
_S = SessionStatus
# A node that failed a session is avoided while another has room; the last few are remembered.
_REMEMBERED_FAILURES = 5


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
        row = await locked(connection, session_id)
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
        row = await locked(connection, session_id)
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
    usage: Collection[KernelUsage] = (),
    slots: Mapping[str, int] | None = None,
) -> int:
    """PENDING again with the next attempt, its slots released (on `fenced` agents: held until proven gone).

    Idempotent by (session, attempt). A node to `avoid` is tried last from now on. `slots` are what each kernel asks
    from now on, if they are others.
    """
    async with engine.begin() as connection:
        row = await locked(connection, session_id)
        if _S(row["status"]) in TERMINAL or row["attempt"] != attempt:
            return int(row["attempt"])
        await _let_go(connection, row, fenced=fenced)
        await keep(connection, session_id, usage)
        await connection.execute(
            text(
                "UPDATE sessions SET avoid_agents = CASE WHEN :avoid = '' THEN avoid_agents ELSE"
                " (array_append(array_remove(avoid_agents, :avoid), :avoid))"
                "[greatest(1, cardinality(avoid_agents) - :keep + 1):] END, agent_id = NULL,"
                " slots = COALESCE(CAST(:slots AS jsonb), slots) WHERE id = :id"
            ),
            {
                "avoid": avoid,
                "keep": _REMEMBERED_FAILURES,
                "slots": json.dumps(dict(slots)) if slots else None,
                "id": session_id,
            },
        )
        await connection.execute(
            text("UPDATE kernels SET agent_id = NULL, health = '', health_message = '' WHERE session_id = :id"),
            {"id": session_id},
        )
        await _set_status(
            connection,
            row,
            _S.PENDING,
            actor="workflow",
            reason=reason,
            message=message,
            extra=", attempt = attempt + 1",
        )
        await notify(connection, SCHEDULER_CHANNEL, row["resource_group"])
        return attempt + 1


async def finish(
    engine: AsyncEngine,
    session_id: str,
    ending: Ending,
    *,
    actor: str,
    fenced: Collection[str] = (),
    usage: Collection[KernelUsage] = (),
    last_lines: str = "",
) -> str:
    """The row is terminal and holds nothing (on `fenced` agents: until proven gone). The first ending wins."""
    async with engine.begin() as connection:
        row = await locked(connection, session_id)
        status = _S(row["status"])
        if status in TERMINAL:
            return str(status)
        await _let_go(connection, row, fenced=fenced)
        await keep(connection, session_id, usage)
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
            extra=", reason = :reason, result = :result, exit_code = :exit_code, last_lines = :last_lines,"
            " terminated_at = now()",
            values={"result": ending.result, "exit_code": ending.exit_code, "last_lines": last_lines},
        )
        await notify(connection, SCHEDULER_CHANNEL, row["resource_group"])
        return str(end)


async def session_state(engine: AsyncEngine, session_id: str, seal: Seal) -> tuple[str, int, list[KernelSpec]]:
    """Status, attempt, and the kernels with the nodes they were placed on."""
    async with engine.connect() as connection:
        row = (
            (
                await connection.execute(
                    text(
                        f"SELECT {SESSION_COLUMNS}, {PLACED}"
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
        placed, devices = placed_by(found)
        given = await networks.of(connection, found, placed)
    return found["status"], found["attempt"], kernel_specs(found, placed, devices, seal, given)


async def start_row(engine: AsyncEngine, session_id: str) -> Mapping[str, Any]:
    """What starting or telling the session's workflow needs."""
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                f"SELECT {SESSION_COLUMNS} FROM sessions s JOIN users u ON u.id = s.user_id"
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
                f"SELECT {SESSION_COLUMNS} FROM sessions s JOIN users u ON u.id = s.user_id"
                " JOIN projects p ON p.id = s.project_id"
                " WHERE s.status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
                " AND s.status_changed < now() - make_interval(secs => :age) LIMIT 10000"
            ),
            {"age": older_than_s},
        )
        return [dict(row) for row in rows.mappings()]


def kernel_specs(
    row: Mapping[str, Any],
    placed: Mapping[str, str],
    devices: Mapping[str, Mapping[str, int]],
    seal: Seal,
    given: Mapping[str, KernelNetwork],
) -> list[KernelSpec]:
    """The kernels that have a node, the main one first; a gang's others idle, its command runs in the main one."""
    env: dict[str, str] = json.loads(seal.open(bytes(row["env"]))) if row["env"] else {}
    secret_env, files = opened(row["secrets"], seal)
    if row["ssh_key"]:
        env = {ssh_keys.VARIABLE: ssh_keys.FOLDER} | env
        files = ssh_keys.files(seal.open(bytes(row["ssh_key"]))) | files
    hosts = [f"{kernel['role']}{kernel['idx']}" for kernel in row["kernels"]]
    return [
        KernelSpec(
            session_id=str(row["id"]),
            kernel_id=kernel["id"],
            attempt=row["attempt"],
            agent_id=placed[kernel["id"]],
            image=row["image"],
            command=list(row["command"]) if kernel["role"] == "main" else list(IDLE),
            env=env | secret_env,
            files=files,
            slots=dict(row["slots"]),
            session_name=row["name"],
            hostname=host,
            on_node_loss=NodeLossPolicy(row["on_node_loss"]),
            role=kernel["role"],
            index=kernel["idx"],
            cluster=hosts,
            devices=dict(devices.get(kernel["id"], {})),
            # A gang's others do nothing that could be checked.
            health=health_check(row["health"]) if kernel["role"] == "main" else None,
            idle=IdlePolicy(**row["idle"]) if row["idle"] else None,
            network=given.get(kernel["id"]),
        )
        for kernel, host in zip(row["kernels"], hosts, strict=True)
        if kernel["id"] in placed
    ]


SESSION_COLUMNS = (
    "s.id, s.name, s.image, s.command, s.env, s.slots, s.attempt, s.status, s.resource_group, s.on_node_loss,"
    " s.pending_timeout_s, s.lifetime_s, s.batch_timeout_s, s.grace_s, s.type, s.restart_policy, s.max_restarts,"
    " s.health, s.idle, s.network, s.ssh_key, u.email AS user, p.name AS project,"
    " (SELECT jsonb_agg(jsonb_build_object('id', k.id, 'role', k.role, 'idx', k.idx, 'agent', k.agent_id)"
    "   ORDER BY k.role, k.idx) FROM kernels k WHERE k.session_id = s.id) AS kernels,"
    f" {OF_A_SESSION}"
)
PLACED = (
    "(SELECT jsonb_object_agg(d.kernel_id, d.held) FROM (SELECT kernel_id, jsonb_object_agg(device_id, amount) AS held"
    " FROM device_allocations WHERE attempt = s.attempt AND kernel_id IN"
    " (SELECT id FROM kernels WHERE session_id = s.id) GROUP BY kernel_id) d) AS devices"
)


def placed_by(row: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """(kernel → node, kernel → its devices), by the row."""
    return {one["id"]: one["agent"] for one in row["kernels"] if one["agent"]}, dict(row["devices"] or {})


async def locked(connection: AsyncConnection, session_id: str) -> Mapping[str, Any]:
    """The session's row, until the transaction's end."""
    row = await connection.execute(
        text("SELECT id, status, attempt, resource_group, cluster_size FROM sessions WHERE id = :id FOR UPDATE"),
        {"id": session_id},
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
    await notify(connection, SESSION_CHANNEL, str(row["id"]))
    return {**row, "status": str(to)}


async def _let_go(connection: AsyncConnection, row: Mapping[str, Any], *, fenced: Collection[str]) -> None:
    """Releases what the session holds; on the fenced agents it stays held until the node proves its container gone."""
    session_id = str(row["id"])
    agents = await connection.execute(
        text("SELECT DISTINCT agent_id FROM allocations WHERE session_id = :id AND released_at IS NULL"),
        {"id": session_id},
    )
    await lock_slots(connection, list(agents.scalars()))
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
    if row["cluster_size"] > 1:
        await networks.release(connection, session_id)


async def lock_slots(connection: AsyncConnection, agents: Collection[str]) -> None:
    """Always in the same order, so that a pass and an end never wait for each other."""
    await connection.execute(
        text("SELECT 1 FROM agent_slots WHERE agent_id = ANY(:agents) ORDER BY agent_id, slot FOR UPDATE"),
        {"agents": list(agents)},
    )


async def notify(connection: AsyncConnection, channel: str, payload: str) -> None:
    await connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": channel, "payload": payload})
