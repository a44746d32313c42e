"""What a container may use, in Docker's words, and how that changes while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import docker
from docker.errors import APIError

from agent_worker.runtimes.contract import UpdateRefused
from moorage.domain.resources import CPU, MEM
from moorage.domain.session import KernelSpec

_PERIOD_US = 100_000


def limits(spec: KernelSpec) -> dict[str, Any]:
    """Cgroup limits. Swap is off: memory and swap together may not exceed the memory."""
    return {"pids_limit": spec.pids_limit, **changeable(spec.slots)}


def changeable(slots: Mapping[str, int]) -> dict[str, Any]:
    """Those that a running container can be given. Memory and swap go together, or Docker refuses one of them."""
    arguments: dict[str, Any] = {}
    if CPU in slots:
        arguments |= {"cpu_period": _PERIOD_US, "cpu_quota": slots[CPU] * _PERIOD_US // 1000}
    if MEM in slots:
        arguments |= {"mem_limit": slots[MEM], "memswap_limit": slots[MEM]}
    return arguments


def updated(client: docker.APIClient, container_id: str, slots: Mapping[str, int]) -> None:
    """One call for all of it: what the kernel refuses, Docker takes back whole."""
    try:
        client.update_container(container_id, **changeable(slots))
    except APIError as error:
        raise UpdateRefused(str(error.explanation or error)) from None
