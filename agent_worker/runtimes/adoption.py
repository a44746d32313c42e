"""What Docker says of a container that is there already when it should be made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from agent_worker.runtimes.contract import CreateRefused, RuntimeAway, Started
from agent_worker.runtimes.kernel_log import killed_for_memory
from moorage.contracts import names
from moorage.domain.session import KernelExit, KernelSpec

_KILLED = 128 + 9


def adopted(there: Mapping[str, Any], spec: KernelSpec, labels: Mapping[str, str]) -> Started | None:
    """How far an earlier try of this step came: None if its container still must be started.

    One that has run is never started again: its command would be done twice. CreateRefused for a stranger's container.
    """
    carried = there["Config"].get("Labels") or {}
    if any(carried.get(label) != labels[label] for label in names.LABELS):
        name = str(there["Name"]).removeprefix("/")
        raise CreateRefused(f"a container that is not Moorage's has the name {name} on this node: docker rm {name}")
    container_id, state = str(there["Id"]), there["State"]
    match state["Status"]:
        case "created":
            return None
        case "exited":
            return Started(container_id, exit_of(spec.kernel_id, spec.attempt, container_id, state))
        case "removing" | "dead":
            raise RuntimeAway(f"an earlier container of this attempt, {container_id[:12]}, is being removed")
        case _:
            return Started(container_id)


def exit_of(kernel_id: str, attempt: int, container_id: str, state: Mapping[str, Any]) -> KernelExit:
    """By Docker's state; whether memory was the cause also by the kernel's own word, which Docker may have missed."""
    code = int(state["ExitCode"])
    oom = bool(state.get("OOMKilled")) or (code == _KILLED and killed_for_memory(container_id))
    return KernelExit(kernel_id, attempt, code, oom, at=time.time())
