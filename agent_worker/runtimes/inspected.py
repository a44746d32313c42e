"""What Docker says of a container, and of its own refusals."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from docker.errors import APIError, NotFound

from moorage.contracts import names
from moorage.domain.health import HealthCheck, health_check

# Variables that say where a container runs, and of no secret of anybody's.
_PUBLIC = frozenset(
    {f"BACKENDAI_{name}" for name in ("SESSION_ID", "SESSION_NAME", "KERNEL_ID")}
    | {f"BACKENDAI_CLUSTER_{name}" for name in ("ROLE", "IDX", "HOST", "HOSTS", "SIZE")}
    | {"MOORAGE_DEVICES", "MOORAGE_SSH_DIR", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"}
)


def well_labelled(labels: dict[str, str]) -> bool:
    """What somebody labelled by hand with other words is not ours, and must not stop the reports of what is."""
    try:
        uuid.UUID(labels[names.LABEL_SESSION])
        uuid.UUID(labels[names.LABEL_KERNEL])
    except ValueError:
        return False
    return labels[names.LABEL_ATTEMPT].isdecimal()


def words_of(error: APIError) -> str:
    return str(error.explanation or error)


def own_values(client: Any, container_id: str) -> set[str]:
    """Of the variables that neither the image nor Moorage has set. Blocks."""
    of_image: list[str] = []
    try:
        found = client.inspect_container(container_id)
        with suppress(NotFound):
            of_image = client.inspect_image(found["Image"])["Config"].get("Env") or []
    except NotFound:
        return set()
    pairs = (variable.partition("=") for variable in set(found["Config"]["Env"] or ()) - set(of_image))
    return {value for name, _, value in pairs if value and name not in _PUBLIC}


def check_of(labels: Mapping[str, str]) -> HealthCheck | None:
    """None without one, or if somebody wrote other words there by hand."""
    try:
        return health_check(json.loads(labels.get(names.LABEL_HEALTH, "null")))
    except (ValueError, TypeError, KeyError):
        return None


def age_s(created: float) -> float:
    return max(0.0, time.time() - created)
