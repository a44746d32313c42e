"""A node and the agent on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class AgentStatus(StrEnum):
    ALIVE = "ALIVE"
    LOST = "LOST"
    TERMINATED = "TERMINATED"


@dataclass(frozen=True, slots=True)
class ContainerSeen:
    """A container with our labels, as the agent found it. `state` is running, exited or created."""

    session_id: str
    kernel_id: str
    attempt: int
    container_id: str
    state: str
    exit_code: int | None = None
    oom_killed: bool = False
    devices: list[str] = field(default_factory=list)  # ids of those that it holds
    fenced: bool = False  # its node stopped it, cut off for too long


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator of a node, or one slice of it. `total` is 1, or 100 where it is given out in shares."""

    device_id: str
    slot: str
    total: int = 1
    numa: int | None = None
    model: str = ""
    healthy: bool = True
    memory: int = 0  # bytes of the whole device or slice; 0 if unknown
    reason: str = ""  # why it is unhealthy


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What an agent says of itself when it registers. `slots` is the capacity it offers, in base units.

    For slots that are given out device by device, `slots` holds the sum and `devices` names each.
    """

    agent_id: str
    resource_group: str
    slots: dict[str, int]
    address: str  # URL of the data plane, as the API reaches it
    architecture: str
    runtime: str
    hostname: str
    version: str
    incarnation: str  # new at each start of the agent's process
    containers: list[ContainerSeen] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    overlay_address: str = ""  # where other nodes' overlays reach it; empty: it takes no part of a gang over nodes
    warnings: list[str] = field(default_factory=list)  # what does not hold on this node, in words
