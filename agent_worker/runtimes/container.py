"""What Docker is told of a container, as pure functions. Limits, mounts, devices and network have their own modules."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from docker.types import Ulimit

from agent_worker.idle_label import idle_label
from moorage.contracts import names
from moorage.domain.session import KernelSpec


def hardening() -> dict[str, Any]:
    """No capability, no new privilege, Docker's default seccomp profile, no host path.

    IPC and control groups of its own whatever the daemon's defaults are; no core file, which the host would keep.
    """
    return {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "init": True,
        "ipc_mode": "private",
        "cgroupns": "private",
        "ulimits": [Ulimit(name="core", soft=0, hard=0)],
    }


def labels(spec: KernelSpec, node: str) -> dict[str, str]:
    return {
        names.LABEL_AGENT: node,
        names.LABEL_SESSION: spec.session_id,
        names.LABEL_KERNEL: spec.kernel_id,
        names.LABEL_ATTEMPT: str(spec.attempt),
        names.LABEL_ON_NODE_LOSS: spec.on_node_loss,
        **({names.LABEL_DEVICES: ",".join(sorted(spec.devices))} if spec.devices else {}),
        **({names.LABEL_HEALTH: json.dumps(asdict(spec.health))} if spec.health else {}),
        **idle_label(spec),
        **({names.LABEL_USER: spec.user} if spec.user else {}),
    }


def environment(spec: KernelSpec) -> dict[str, str]:
    """The user's variables, and those that Backend.AI's sessions find too."""
    return {
        "BACKENDAI_SESSION_ID": spec.session_id,
        "BACKENDAI_SESSION_NAME": spec.session_name,
        "BACKENDAI_KERNEL_ID": spec.kernel_id,
        "BACKENDAI_CLUSTER_ROLE": spec.role,
        "BACKENDAI_CLUSTER_IDX": str(spec.index),
        "BACKENDAI_CLUSTER_HOST": spec.hostname,
        "BACKENDAI_CLUSTER_HOSTS": ",".join(spec.cluster or [spec.hostname]),
        "BACKENDAI_CLUSTER_SIZE": str(len(spec.cluster) or 1),
        **spec.env,
    }


def container_name(kernel_id: str, attempt: int) -> str:
    return f"moorage-{kernel_id}-{attempt}"
