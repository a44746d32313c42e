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


@dataclass(frozen=True, slots=True)
class AgentInfo:
    """What an agent says of itself when it registers. `slots` is the capacity it offers, in base units."""

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
