"""Containers that a benchmark must not leave behind: they outlive whoever made them."""

from __future__ import annotations

from contextlib import suppress

import docker
from docker.errors import APIError

from moorage.contracts import names


def labels_of(cluster: str, agent_id: str) -> tuple[str, str]:
    """Of an agent's containers, and of the network namespaces that it has made ahead."""
    node = names.node_label(cluster, agent_id)
    return f"{names.LABEL_AGENT}={node}", f"{names.LABEL_NAMESPACE}={node}"


def remove_labelled(*labels: str) -> None:
    """By a client of its own; one that can't be removed keeps none of the others."""
    client = docker.APIClient(version="auto", timeout=120)
    for label in labels:
        for one in client.containers(all=True, filters={"label": label}):
            with suppress(APIError):
                client.remove_container(one["Id"], force=True, v=True)
    client.close()
