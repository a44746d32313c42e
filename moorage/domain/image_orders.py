"""Orders to pull or remove an image on several nodes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class OrderKind(StrEnum):
    PULL = "pull"
    REMOVE = "remove"


class NodeState(StrEnum):
    """Of one node in an order."""

    WAITING = "waiting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """What ImageWorkflow starts with."""

    order_id: str
    kind: str
    image: str
    agents: list[str]


@dataclass(frozen=True, slots=True)
class NodeResult:
    """How it ended on one node: with words if it failed, with what is there now if an image was pulled."""

    order_id: str
    agent_id: str
    state: str
    message: str = ""
    image_id: str = ""
    digest: str = ""
