"""A new session: everything that may refuse it, and its rows, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from moorage import ssh_keys
from moorage.db import audit, ceilings, dependencies, groups, idling, images, quotas, secrets, sessions
from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.db.limits import check_pending, check_slots
from moorage.db.members import hold as hold_membership
from moorage.db.room import check_designated, check_room
from moorage.domain.errors import Conflict, Forbidden, InvalidRequest
from moorage.domain.health import HealthCheck
from moorage.domain.idle import IdlePolicy, IdleWish
from moorage.domain.ids import new_id
from moorage.domain.network import NetworkPolicy
from moorage.domain.secrets import SecretUse
from moorage.domain.session import DependencyPolicy, RestartPolicy
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import ClusterMode
from moorage.seal import Seal


@dataclass(frozen=True, slots=True)
class NewSession:
    """A checked wish. Seconds; slots of each kernel in base units. `pending_timeout_s` None: as the group says."""

    name: str
    image: str
    type: str
    command: list[str]
    env: dict[str, str] = field(repr=False)
    slots: dict[str, int]
    priority: int
    resource_group: str
    on_node_loss: str
    pending_timeout_s: float | None
    lifetime_s: float
    batch_timeout_s: float
    grace_s: float
    cluster_size: int = 1
    cluster_mode: str = ClusterMode.SINGLE_NODE
    not_before: datetime | None = None
    dependencies: list[str] = field(default_factory=list)  # ids or names
    on_dependency_failure: str = DependencyPolicy.CANCEL
    architecture: str = ""
    agents: list[str] = field(default_factory=list)
    preemptible: bool = True
    job_priority: int = 0
    secrets: list[SecretUse] = field(default_factory=list)
    idempotency_key: str | None = None
    idempotency_hash: str | None = None
    restart_policy: str = RestartPolicy.NEVER
    max_restarts: int = 5
    health: HealthCheck | None = None
    network: str = NetworkPolicy.OPEN
    idle: IdlePolicy | None = None  # as it comes out of the wish and of what its owners say
    idle_wish: IdleWish | None = None


async def insert(engine: AsyncEngine, seal: Seal, who: Principal, new: NewSession) -> tuple[Mapping[str, Any], bool]:
    """(row, True) for a new PENDING session, or (row, False) for the one this idempotency key made before."""
    earlier = await _made_before(engine, who, new)
    if earlier is not None:
        return earlier, False
    session_id = new_id()
    try:
        async with engine.begin() as connection:
            await hold_membership(connection, who)
            pending_timeout_s, agents = await _admit(connection, who, new)
            new = replace(new, agents=agents)
            new = await held_to_ceilings(connection, who, new)
            needed = await _needed(connection, who, new)
            await check_pending(connection, who, new.slots, new.cluster_size)
            values = _values(session_id, seal, who, new) | {"pending": pending_timeout_s, "needed": needed}
            await connection.execute(text(_INSERT), values)
            await secrets.refer(
                connection,
                seal,
                who,
                new.secrets,
                session_id=session_id,
                project_id=who.project_id,
                kernels=new.cluster_size,
            )
            await audit.write(
                connection, who, "session:create", session_id, after=_told(new), project_id=who.project_id
            )
    except (IntegrityError, Conflict) as error:
        # The same request may have come twice at once: the second one gets what the first one made.
        again = await _made_before(engine, who, new)
        if again is not None:
            return again, False
        if "one_live_session_of_a_name" in str(error):
            raise await _name_in_use(engine, who, new.name) from None
        raise
    row = await sessions.by_id(engine, session_id)
    assert row is not None
    return row, True


async def held_to_ceilings(connection: AsyncConnection, who: Principal, new: NewSession) -> NewSession:
    """The wish with the longest lifetime that its owners allow, if it named none; refused if they allow less.

    And with what they say of idleness.
    """
    applying = await quotas.applying(connection, who)
    lifetime_s = await ceilings.check(
        connection,
        applying,
        slots=new.slots,
        kernels=new.cluster_size,
        priority=new.priority,
        job_priority=new.job_priority,
        lifetime_s=new.lifetime_s,
        batch_timeout_s=new.batch_timeout_s,
    )
    return replace(new, lifetime_s=lifetime_s, idle=idling.in_force(applying, who, new.type, new.idle_wish))


_INSERT = (
    "WITH s AS (INSERT INTO sessions (id, name, user_id, project_id, domain, access_key, resource_group, type, image,"
    " command, env, slots, priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s,"
    " cluster_size, cluster_mode, not_before, on_dependency_failure, architecture, designated, preemptible,"
    " job_priority, restart_policy, max_restarts, health, idle, network, ssh_key, status, result, attempt,"
    " idempotency_key, idempotency_hash) VALUES (:id, :name, :user, :project,"
    " :domain, :access_key, :group, :type, :image, :command, :env, CAST(:slots AS jsonb), :priority, :on_node_loss,"
    " :pending, :lifetime, :batch, :grace, :cluster_size, :cluster_mode, :not_before, :on_dependency_failure,"
    " :architecture, :designated, :preemptible, :job_priority, :restart_policy, :max_restarts,"
    " CAST(:health AS jsonb), CAST(:idle AS jsonb), :network, :ssh_key, 'PENDING', 'UNDEFINED', 0, :key, :hash)"
    " RETURNING id, resource_group, cluster_size),"
    " k AS (INSERT INTO kernels (id, session_id, role, idx) SELECT gen_random_uuid(), s.id,"
    "   CASE n WHEN 0 THEN 'main' ELSE 'sub' END, GREATEST(n, 1) FROM s, generate_series(0, s.cluster_size - 1) n),"
    " d AS (INSERT INTO session_dependencies (session_id, depends_on)"
    "   SELECT s.id, needed FROM s, unnest(CAST(:needed AS uuid[])) AS needed),"
    " t AS (INSERT INTO transitions (session_id, seq, to_status, actor, reason, message, attempt)"
    "   SELECT id, 1, 'PENDING', :actor, '', '', 0 FROM s)"
    " SELECT pg_notify(:channel, resource_group) FROM s"
)


async def _admit(connection: AsyncConnection, who: Principal, new: NewSession) -> tuple[float, list[str]]:
    """Refuses what the group doesn't take or could never hold.

    Returns the pending timeout in force, and the only nodes that it may run on, if not all.
    """
    # Locked, so that the group isn't removed until we have committed.
    rows = await connection.execute(
        text(
            "SELECT options, allowed_domains, allowed_projects, allowed_keypairs FROM resource_groups"
            " WHERE name = :name AND removed_at IS NULL FOR KEY SHARE"
        ),
        {"name": new.resource_group},
    )
    group = next((dict(row) for row in rows.mappings()), None)
    # The same answer for both, so that nothing is learnt about groups of others.
    if group is None or not groups.may_use(group, who):
        raise InvalidRequest(
            f"there is no resource group {new.resource_group[:64]!r}",
            code="unknown-resource-group",
            data={"field": "resource_group"},
        )
    types = group["options"].get("session_types") or [new.type]
    if new.type not in types:
        raise InvalidRequest(
            f"resource group {new.resource_group!r} takes no {new.type} sessions; allowed are {', '.join(types)}",
            code="session-type-not-allowed",
            data={"field": "type", "allowed": types},
        )
    await images.check_allowed(connection, who.domain, new.image)
    pending_timeout_s = _pending_timeout(group["options"], new)
    await check_slots(connection, new.slots)
    if new.agents:
        if not who.reach("agent:update").everywhere:
            raise Forbidden("only superadmins may choose the agents of a session")
        await check_designated(connection, new.resource_group, new.agents)
    agents = await images.only_nodes(connection, new.resource_group, new.image, new.agents)
    await check_room(
        connection,
        new.resource_group,
        new.slots,
        kernels=new.cluster_size,
        on_one_node=new.cluster_mode == ClusterMode.SINGLE_NODE,
        architecture=new.architecture,
        designated=agents,
    )
    return pending_timeout_s, agents


def _pending_timeout(options: Mapping[str, Any], new: NewSession) -> float:
    """The wish, else the group's default; never beyond the group's longest. 0 is none."""
    longest = float(options.get("max_pending_timeout_s", 0))
    wish = new.pending_timeout_s
    limit = wish if wish is not None else float(options.get("default_pending_timeout_s", 0)) or longest
    if longest and not 0 < limit <= longest:
        raise InvalidRequest(
            f"pending_timeout_s {limit:g} is not allowed in resource group {new.resource_group!r};"
            f" allowed is more than 0 and at most {longest:g}",
            data={"field": "pending_timeout_s", "most": longest},
        )
    if limit and new.not_before and new.not_before > datetime.now(UTC) + timedelta(seconds=limit):
        raise InvalidRequest(
            f"not_before {new.not_before.isoformat()} is later than the end of the pending timeout of {limit:g} s",
            code="contradicting-times",
            hint="give a larger pending_timeout_s, or an earlier not_before",
            data={"field": "not_before"},
        )
    return limit


async def _needed(connection: AsyncConnection, who: Principal, new: NewSession) -> list[str]:
    if not new.dependencies:
        return []
    if new.name in new.dependencies:
        raise InvalidRequest(
            f"session {new.name!r} can't depend on itself; name an earlier session of that name by its id",
            code="circular-dependency",
            data={"field": "dependencies"},
        )
    return await dependencies.resolve(connection, who.user_id, new.dependencies, new.on_dependency_failure)


def _values(session_id: str, seal: Seal, who: Principal, new: NewSession) -> dict[str, Any]:
    return {
        "id": session_id,
        "name": new.name,
        "user": who.user_id,
        "project": who.project_id,
        "domain": who.domain,
        "access_key": who.access_key,
        "group": new.resource_group,
        "type": new.type,
        "image": new.image,
        "command": new.command,
        "env": seal.seal(json.dumps(new.env).encode()) if new.env else None,
        "slots": json.dumps({name: amount for name, amount in new.slots.items() if amount}),
        "priority": new.priority,
        "on_node_loss": new.on_node_loss,
        "lifetime": new.lifetime_s,
        "batch": new.batch_timeout_s,
        "grace": new.grace_s,
        "cluster_size": new.cluster_size,
        "cluster_mode": str(new.cluster_mode),
        "not_before": new.not_before,
        "on_dependency_failure": str(new.on_dependency_failure),
        "architecture": new.architecture,
        "designated": new.agents,
        "preemptible": new.preemptible,
        "job_priority": new.job_priority,
        "restart_policy": new.restart_policy,
        "max_restarts": new.max_restarts,
        "health": json.dumps(asdict(new.health)) if new.health else None,
        "idle": json.dumps(asdict(new.idle)) if new.idle else None,
        "network": str(new.network),
        "ssh_key": seal.seal(ssh_keys.made()) if new.cluster_size > 1 else None,
        "key": new.idempotency_key,
        "hash": new.idempotency_hash,
        "actor": who.named,
        "channel": SCHEDULER_CHANNEL,
    }


def _told(new: NewSession) -> dict[str, Any]:
    """What the audit says of it: neither its environment nor its command, which may hold secrets."""
    return {name: getattr(new, name) for name in ("name", "image", "type", "resource_group", "slots", *_MORE_TOLD)}


_MORE_TOLD = ("cluster_size", "priority", "job_priority", "lifetime_s", "agents", "network")


async def _made_before(engine: AsyncEngine, who: Principal, new: NewSession) -> Mapping[str, Any] | None:
    if new.idempotency_key is None:
        return None
    async with engine.connect() as connection:
        rows = await connection.execute(
            text("SELECT id, idempotency_hash FROM sessions WHERE user_id = :user AND idempotency_key = :key"),
            {"user": who.user_id, "key": new.idempotency_key},
        )
        row = rows.first()
    if row is None:
        return None
    if row.idempotency_hash != new.idempotency_hash:
        raise Conflict(
            "this Idempotency-Key came with another request before; take a new key", code="idempotency-key-reused"
        )
    return await sessions.by_id(engine, str(row.id))


async def _name_in_use(engine: AsyncEngine, who: Principal, name: str) -> Conflict:
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT id FROM sessions WHERE user_id = :user AND name = :name"
                " AND status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
            ),
            {"user": who.user_id, "name": name},
        )
        existing = rows.scalar()
    return Conflict(
        f"you have a live session named {name!r}; stop it or take another name",
        code="session-already-exists",
        data={"existingSessionId": str(existing) if existing else None},
    )
