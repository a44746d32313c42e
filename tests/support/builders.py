"""Things that tests need, with defaults."""

from __future__ import annotations

import json

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.domain.ids import new_id
from moorage.domain.node import AgentInfo, ContainerSeen, Device
from moorage.scheduler.snapshot import ClusterMode, DeviceState, NodeState, Owner, WaitingKernel, WaitingSession

KEYS = "k1:" + "11" * 32
GIB = 1024**3


def an_agent(
    agent_id: str = "n1",
    *,
    cpu: int = 4000,
    mem: int = 8 * GIB,
    containers: list[ContainerSeen] | None = None,
    devices: list[Device] | None = None,
    images: list[str] | None = None,
    resource_group: str = "default",
    architecture: str = "x86_64",
    slots: dict[str, int] | None = None,
) -> AgentInfo:
    offered = {"cpu": cpu, "mem": mem, **(slots or {})}
    for device in devices or []:
        offered[device.slot] = offered.get(device.slot, 0) + device.total
    return AgentInfo(
        agent_id,
        resource_group,
        offered,
        "http://127.0.0.1:1",
        architecture,
        "simulated",
        "host",
        "0",
        "i1",
        containers or [],
        devices=devices or [],
        images=images or [],
    )


def a_node(
    agent_id: str = "n1",
    *,
    cpu: int = 4000,
    mem: int = 8 * GIB,
    used_cpu: int = 0,
    gpus: int = 0,
    devices: tuple[DeviceState, ...] = (),
    images: frozenset[str] = frozenset(),
    architecture: str = "x86_64",
) -> NodeState:
    """`gpus` are counted only; `devices` are given out one by one, and add to the offer."""
    capacity = {"cpu": cpu, "mem": mem, **({"cuda.device": gpus} if gpus else {})}
    used = {"cpu": used_cpu, "mem": 0}
    for device in devices:
        capacity[device.slot] = capacity.get(device.slot, 0) + device.total
        used[device.slot] = used.get(device.slot, 0) + device.used
    return NodeState(agent_id, capacity, used, architecture=architecture, devices=devices, images=images)


def a_waiting(
    session_id: str = "s1",
    *,
    cpu: int = 1000,
    mem: int = GIB,
    priority: int = 10,
    submitted: float = 0.0,
    avoid: frozenset[str] = frozenset(),
    kernels: int = 1,
    slots: dict[str, int] | None = None,
    user: str = "",
    project: str = "",
    domain: str = "",
    cluster_mode: ClusterMode = ClusterMode.MULTI_NODE,
    time_limit_s: float | None = None,
    skips: int = 0,
    job_priority: int = 0,
    image: str = "",
) -> WaitingSession:
    """`slots` are asked beside cpu and mem, by each of the `kernels`."""
    asked = {"cpu": cpu, "mem": mem, **(slots or {})}
    names = [f"k-{session_id}"] if kernels == 1 else [f"k-{session_id}-{number}" for number in range(kernels)]
    return WaitingSession(
        session_id,
        tuple(WaitingKernel(name, dict(asked)) for name in names),
        priority,
        submitted,
        avoid=avoid,
        owner=Owner(user, project, domain, user),
        cluster_mode=cluster_mode,
        time_limit_s=time_limit_s,
        skips=skips,
        job_priority=job_priority,
        image=image,
    )


async def a_user(engine: AsyncEngine, email: str = "ada@example.org") -> str:
    user_id = new_id()
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO users (id, email, password_hash, role, domain, project_id)"
                " VALUES (:id, :email, '', 'user', 'default', '00000000-0000-4000-8000-000000000001')"
            ),
            {"id": user_id, "email": email},
        )
    return user_id


async def a_pending_session(
    engine: AsyncEngine,
    user_id: str,
    *,
    cpu: int = 1000,
    mem: int = GIB,
    name: str = "",
    kernels: int = 1,
    slots: dict[str, int] | None = None,
    after: str = "",
    **columns: object,
) -> tuple[str, str]:
    """(session id, main kernel id) of a row that waits; `after` names a session that it depends on."""
    session_id, kernel_ids = new_id(), [new_id() for _ in range(kernels)]
    more = "".join(f", {column}" for column in columns)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO sessions (id, name, user_id, project_id, domain, resource_group, type, image, command,"
                " slots, priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s, status,"
                f" result, attempt, cluster_size{more})"
                " VALUES (:id, :name, :user, '00000000-0000-4000-8000-000000000001', 'default',"
                " 'default', 'batch', 'img', '{true}', CAST(:slots AS jsonb), 10, 'fail', 0, 0, 0, 10,"
                f" 'PENDING', 'UNDEFINED', 0, :kernels{more.replace(', ', ', :')})"
            ),
            {
                "id": session_id,
                "name": name or f"s-{session_id[:8]}",
                "user": user_id,
                "slots": json.dumps({"cpu": cpu, "mem": mem, **(slots or {})}),
                "kernels": kernels,
                **columns,
            },
        )
        for n, kernel_id in enumerate(kernel_ids):
            role, idx = ("main", 1) if n == 0 else ("sub", n)
            await connection.execute(
                text("INSERT INTO kernels (id, session_id, role, idx) VALUES (:k, :s, :role, :idx)"),
                {"k": kernel_id, "s": session_id, "role": role, "idx": idx},
            )
        await connection.execute(
            text(
                "INSERT INTO transitions (session_id, seq, to_status, actor, reason, message, attempt)"
                " VALUES (:s, 1, 'PENDING', 'test', '', '', 0)"
            ),
            {"s": session_id},
        )
        if after:
            await connection.execute(
                text("INSERT INTO session_dependencies VALUES (:s, :d)"), {"s": session_id, "d": after}
            )
    return session_id, kernel_ids[0]
