"""Kernels that tests ask for, with defaults."""

from __future__ import annotations

import base64

from moorage.domain.ids import new_id
from moorage.domain.network import KernelNetwork
from moorage.domain.session import KernelSpec

IMAGE = "moorage-test-busybox:1"
MIB = 1024**2


def a_spec(
    *command: str,
    agent_id: str = "n1",
    kernel_id: str = "",
    attempt: int = 0,
    image: str = IMAGE,
    mem: int = 32 * MIB,
    on_node_loss: str = "fail",
    files: dict[str, bytes] | None = None,
    network: KernelNetwork | None = None,
    **env: str,
) -> KernelSpec:
    """A kernel that runs until it is stopped, unless a command is given."""
    return KernelSpec(
        session_id=new_id(),
        kernel_id=kernel_id or new_id(),
        attempt=attempt,
        agent_id=agent_id,
        image=image,
        command=list(command) or ["sleep", "infinity"],
        env=env,
        slots={"cpu": 500, "mem": mem},
        session_name="a-test",
        on_node_loss=on_node_loss,
        files={path: base64.b64encode(content).decode() for path, content in (files or {}).items()},
        network=network,
    )
