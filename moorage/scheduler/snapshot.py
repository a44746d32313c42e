"""What a pass sees and what it answers. All of it immutable: the same snapshot and policy give the same decisions."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node's offer and use per slot, in base units."""

    agent_id: str
    capacity: dict[str, int]
    used: dict[str, int]
    schedulable: bool = True
    architecture: str = "x86_64"


@dataclass(frozen=True, slots=True)
class WaitingKernel:
    kernel_id: str
    slots: dict[str, int]


@dataclass(frozen=True, slots=True)
class WaitingSession:
    """A session in the queue. `submitted` in seconds since 1970; `avoid` names nodes that failed it before."""

    session_id: str
    kernels: tuple[WaitingKernel, ...]
    priority: int
    submitted: float
    attempt: int = 0
    avoid: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """How a resource group decides. `ageing_per_hour` adds that many priority points for each hour of waiting."""

    order: str = "priority"
    selector: str = "concentrated"
    ageing_per_hour: float = 0.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One resource group at one moment (`now` in seconds since 1970)."""

    now: float
    nodes: tuple[NodeState, ...]
    waiting: tuple[WaitingSession, ...]


class Cause(StrEnum):
    """Why a session was not placed. NEVER_FITS stays true until nodes change; the others may pass."""

    NO_NODES = "no-nodes"
    NEVER_FITS = "never-fits"
    NO_ROOM = "no-room"


@dataclass(frozen=True, slots=True)
class Placement:
    session_id: str
    attempt: int
    kernels: dict[str, str]  # kernel id -> agent id


@dataclass(frozen=True, slots=True)
class Refusal:
    session_id: str
    cause: Cause
    message: str


@dataclass(frozen=True, slots=True)
class Decisions:
    placements: tuple[Placement, ...] = ()
    refusals: tuple[Refusal, ...] = field(default=())
