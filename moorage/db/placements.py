"""What the scheduler writes: placements with their slots and devices, holds, counts, and why the others wait.

One transaction for each pass, under the epoch of the group; from then on only the workflow of a session moves its row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage.db import networks, running_limits
from moorage.db.ledger import PLACED, SESSION_CHANNEL, SESSION_COLUMNS, kernel_specs, lock_slots, notify, placed_by
from moorage.domain.network import DEFAULT_POOL
from moorage.domain.session import KernelSpec
from moorage.scheduler.snapshot import Decisions, Placement, Preemption, Refusal
from moorage.seal import Seal

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
    network_pool: str = DEFAULT_POOL,
) -> list[Assigned]:
    """Gives each session its slots and devices, if the epoch is current. One that no longer fits is left out, alone,
    and so is one whose owner has reached a limit meanwhile, in another group.

    Keeps holds, skip counts and the cursor in the same transaction.
    """
    assigned: list[Assigned] = []
    async with engine.begin() as connection:
        await _check_epoch(connection, resource_group, epoch)
        limits = await running_limits.take(connection, [one.session_id for one in decisions.placements])
        agents = {agent_id for placement in decisions.placements for agent_id in placement.kernels.values()}
        await lock_slots(connection, agents)
        for placement in decisions.placements:
            if not limits.allow(placement.session_id):
                continue
            savepoint = await connection.begin_nested()
            try:
                row = await _allocate(connection, placement, network_pool)
            except Exception as error:
                await savepoint.rollback()
                if isinstance(error, networks.NoNetworkLeft):
                    await _note_no_network(connection, placement.session_id, str(error))
                if "check_violation" in _sqlstate_name(error):
                    continue
                raise
            await savepoint.commit()
            if row is not None:
                limits.placed(placement.session_id)
                given = await networks.of(connection, row, placement.kernels)
                assigned.append(Assigned(row, kernel_specs(row, placement.kernels, placement.devices, seal, given)))
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
                f"SELECT DISTINCT ON (s.id) {SESSION_COLUMNS}, t.name AS failed FROM sessions s"
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
                    f"SELECT {SESSION_COLUMNS}, {PLACED}"
                    " FROM sessions s JOIN users u ON u.id = s.user_id JOIN projects p ON p.id = s.project_id"
                    " WHERE s.status = 'SCHEDULED' AND s.resource_group = :name"
                    " AND s.status_changed < now() - make_interval(secs => :age) LIMIT 1000"
                ),
                {"name": resource_group, "age": older_than_s},
            )
        ).mappings()
        found = []
        for row in map(dict, rows.all()):
            placed, devices = placed_by(row)
            given = await networks.of(connection, row, placed)
            found.append(Assigned(row, kernel_specs(row, placed, devices, seal, given)))
        return found


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


async def _check_epoch(connection: AsyncConnection, resource_group: str, epoch: int) -> None:
    found = await connection.execute(
        text("SELECT epoch FROM resource_groups WHERE name = :name FOR SHARE"), {"name": resource_group}
    )
    if found.scalar_one() != epoch:
        raise StaleEpoch(f"resource group {resource_group} is at a newer epoch than {epoch}")


async def _allocate(connection: AsyncConnection, placement: Placement, network_pool: str) -> Mapping[str, Any] | None:
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
                    f" SELECT {SESSION_COLUMNS} FROM s JOIN users u ON u.id = s.user_id"
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
    if len(moved["kernels"]) > 1:
        await networks.allocate(
            connection, placement.session_id, placement.attempt, len(moved["kernels"]), network_pool
        )
    await notify(connection, SESSION_CHANNEL, placement.session_id)
    return dict(moved)


async def _note_no_network(connection: AsyncConnection, session_id: str, words: str) -> None:
    await connection.execute(
        text("UPDATE sessions SET waiting_because = :why WHERE id = :id AND status = 'PENDING'"),
        {"id": session_id, "why": words},
    )


class NodeLeft(Exception):
    """The chosen node is not there any more; the session stays in the queue."""


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


def _sqlstate_name(error: BaseException) -> str:
    """`check_violation` for a slot that has no room any more, else the error's own words."""
    state = getattr(getattr(error, "orig", None), "sqlstate", "")
    return "check_violation" if state == "23514" or isinstance(error, NodeLeft | networks.NoNetworkLeft) else str(state)
