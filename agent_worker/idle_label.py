"""What a container carries of its idle policy, so that the next process of the agent knows it."""

from __future__ import annotations

import json
from dataclasses import asdict

from moorage.contracts import names
from moorage.domain.idle import IdlePolicy
from moorage.domain.session import KernelSpec


def idle_label(spec: KernelSpec) -> dict[str, str]:
    """With the session's name, which its warning tells; nothing without a policy."""
    if spec.idle is None or spec.idle.after_s <= 0:
        return {}
    return {names.LABEL_IDLE: json.dumps({**asdict(spec.idle), "name": spec.session_name})}


def read_label(label: str) -> tuple[IdlePolicy, str] | None:
    """The policy and the name; None for what can't be read."""
    try:
        kept = json.loads(label)
        name = str(kept.pop("name", ""))
        return IdlePolicy(**kept), name
    except (ValueError, TypeError, AttributeError):
        return None
