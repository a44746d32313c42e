"""What accelerators reserved, in Docker's words."""

from __future__ import annotations

from typing import Any

from docker.types import DeviceRequest

from moorage.contracts.accelerators import Reservation


def devices(reserved: Reservation) -> dict[str, Any]:
    """For the host configuration. A container may read and write its device nodes, not make new ones."""
    arguments: dict[str, Any] = {}
    if reserved.nodes:
        arguments["devices"] = [f"{node}:{node}:rw" for node in reserved.nodes]
    if reserved.mounts:
        arguments["binds"] = [
            f"{mount.source}:{mount.target}:{'rw' if mount.writable else 'ro'}" for mount in reserved.mounts
        ]
    if reserved.requests:
        arguments["device_requests"] = [
            DeviceRequest(
                driver=one.driver,
                device_ids=list(one.ids),
                capabilities=[list(one.capabilities)] if one.capabilities else None,
            )
            for one in reserved.requests
        ]
    return arguments
