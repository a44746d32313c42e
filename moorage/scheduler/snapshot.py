"""What a pass sees and what it answers. All of it immutable: the same snapshot and policy give the same decisions.

Amounts are whole numbers of a slot's base unit (moorage.domain.resources); times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from moorage.domain.resources import Slots


@dataclass(frozen=True, slots=True)
class DeviceState:
    """One device of a node, or one slice of it. `total` is 1 for whole devices and 100 for shares of one."""

    device_id: str
    slot: str
    total: int = 1
    used: int = 0
    numa: int | None = None
    healthy: bool = True
    model: str = ""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's offer and use per slot. Slots with `devices` are given out device by device."""

    agent_id: str
    capacity: Slots
    used: Slots
    schedulable: bool = True
    architecture: str = "x86_64"
    devices: tuple[DeviceState, ...] = ()
    images: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class WaitingKernel:
    kernel_id: str
    slots: Slots


class ClusterMode(StrEnum):
    """`single-node` puts all kernels of a gang on one node, `multi-node` packs them on few."""

    SINGLE_NODE = "single-node"
    MULTI_NODE = "multi-node"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose session it is: the four scopes that limits and shares are counted for."""

    user: str = ""
    project: str = ""
    domain: str = ""
    keypair: str = ""


@dataclass(frozen=True, slots=True)
class WaitingSession:
    """A session in the queue. Several kernels are a gang: all of them start or none.

    `avoid` names nodes that failed it before, `designated` the only nodes allowed (empty: any), `skips` the passes in
    which others started past it, `unmet` the names of those it waits for, `time_limit_s` the longest it may run.
    """

    session_id: str
    kernels: tuple[WaitingKernel, ...]
    priority: int
    submitted: float
    attempt: int = 0
    avoid: frozenset[str] = frozenset()
    owner: Owner = Owner()
    session_type: str = "batch"
    image: str = ""
    architecture: str = ""  # empty: any
    cluster_mode: ClusterMode = ClusterMode.MULTI_NODE
    designated: frozenset[str] = frozenset()
    not_before: float = 0.0
    unmet: tuple[str, ...] = ()
    time_limit_s: float | None = None
    skips: int = 0
    job_priority: int = 0
    preemptible: bool = True


@dataclass(frozen=True, slots=True)
class RunningKernel:
    """What a kernel holds: amounts on a node, and of them `devices` (device id → amount)."""

    kernel_id: str
    agent_id: str
    slots: Slots
    devices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session that holds resources, from SCHEDULED on. `since` is when it got them; `leaving` that it is stopping."""

    session_id: str
    kernels: tuple[RunningKernel, ...]
    since: float
    owner: Owner = Owner()
    priority: int = 10
    job_priority: int = 0
    preemptible: bool = True
    time_limit_s: float | None = None
    leaving: bool = False


class Scope(StrEnum):
    KEYPAIR = "keypair"
    USER = "user"
    PROJECT = "project"
    DOMAIN = "domain"


@dataclass(frozen=True, slots=True)
class TenantState:
    """One owner in one scope: its limits (None and missing slots: no limit), what it holds now, and what it used.

    `held` and `sessions` count the whole cluster, not only this resource group. `decayed` is use in base units ×
    seconds, each second weighted by 2^(−age / half-life). A user's decayed use is kept for each of its projects, under
    the name `user@project`.
    """

    scope: Scope
    name: str
    max_sessions: int | None = None
    max_slots: Slots = field(default_factory=dict)
    weight: float = 1.0
    held: Slots = field(default_factory=dict)
    sessions: int = 0
    decayed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hold:
    """Room that was made by preemption for a session: nobody else gets it until then."""

    session_id: str
    kernels: Mapping[str, str]  # kernel id → agent id
    until: float


class Head(StrEnum):
    """What a session that doesn't fit means for those behind it.

    `easy`: it holds a reservation, and others may pass if they don't delay it. `strict`: nobody passes. `none`: all
    may.
    """

    EASY = "easy"
    STRICT = "strict"
    NONE = "none"


class PreemptionMode(StrEnum):
    OFF = "off"
    TERMINATE = "terminate"
    REQUEUE = "requeue"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a resource group decides. docs/scheduling.md describes each option."""

    order: str = "priority"
    selector: str = "concentrated"
    head: Head = Head.EASY
    ageing_per_hour: float = 0.0  # priority points gained in each hour of waiting
    skip_limit: int = 20  # passes; a head without a computable start reserves nodes after so many
    session_types: frozenset[str] = frozenset()  # empty: all
    preemption: PreemptionMode = PreemptionMode.OFF
    preemption_min_run_s: float = 60.0
    preemption_hold_s: float = 120.0
    half_life_s: float = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One resource group at one moment. `cursor` is where roundrobin stopped (an agent id)."""

    now: float
    nodes: tuple[NodeState, ...]
    waiting: tuple[WaitingSession, ...]
    running: tuple[RunningSession, ...] = ()
    tenants: tuple[TenantState, ...] = ()
    holds: tuple[Hold, ...] = ()
    cursor: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What is different since the last pass. A row that is named replaces the one of the same id; holds replace all."""

    nodes: tuple[NodeState, ...] = ()
    removed_nodes: tuple[str, ...] = ()
    waiting: tuple[WaitingSession, ...] = ()
    removed_waiting: tuple[str, ...] = ()
    running: tuple[RunningSession, ...] = ()
    removed_running: tuple[str, ...] = ()
    tenants: tuple[TenantState, ...] = ()
    holds: tuple[Hold, ...] | None = None
    cursor: str | None = None


class Cause(StrEnum):
    """Why a session was not placed. The first group is about the session or its owner, the second about nodes."""

    NOT_YET = "not-before"
    DEPENDENCY = "dependency"
    SESSION_TYPE = "session-type"
    CONCURRENCY = "concurrency-limit"
    SLOT_LIMIT = "slot-limit"

    NO_NODES = "no-nodes"
    NEVER_FITS = "never-fits"
    NO_ROOM = "no-room"
    BEHIND_HEAD = "behind-head"
    RESERVED = "reserved"


@dataclass(frozen=True, slots=True)
class Placement:
    """`kernels`: kernel id → agent id. `devices`: kernel id → device id → amount, for slots given out by device."""

    session_id: str
    attempt: int
    kernels: dict[str, str]
    devices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The first cause that stopped a session, in words with numbers; `explain` finds all of them."""

    session_id: str
    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class Preemption:
    """These are to be stopped so that `hold.session_id` can start."""

    victims: tuple[str, ...]
    hold: Hold


@dataclass(frozen=True, slots=True)
class Reservation:
    """The head's promise: it can start at `at` (None: not known) on these nodes."""

    session_id: str
    agents: tuple[str, ...]
    at: float | None


@dataclass(frozen=True, slots=True)
class Decisions:
    """`skipped` are waiting sessions that somebody behind them passed in this pass."""

    placements: tuple[Placement, ...] = ()
    refusals: tuple[Refusal, ...] = field(default=())
    preemptions: tuple[Preemption, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    skipped: tuple[str, ...] = ()
    cursor: str = ""
