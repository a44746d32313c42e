"""Looks for what must not be left: planted secrets in all that a cluster keeps, in every form; networks on a node."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus

import asyncpg
import docker
import psutil
from temporalio.api.workflowservice.v1 import (
    DescribeWorkflowExecutionRequest,
    GetWorkflowExecutionHistoryRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client

from moorage.cli.up.state import Place, read_run
from moorage.contracts.names import LABEL_NETWORK, node_label

# Where the keys are kept that everything else is protected with.
_KEYS = {"admin.toml", "keys.toml", "client.toml"}


def networks_of(engine: docker.APIClient, *owners: str) -> list[str]:
    """Names of the Docker networks of these agents (`cluster/agent`) and clusters."""
    found = [one for owner in owners for one in engine.networks(filters={"label": f"{LABEL_NETWORK}={owner}"})]
    return sorted(str(one["Name"]) for one in found)


def remove_networks(engine: docker.APIClient, agent_id: str, cluster: str = "moorage") -> None:
    """Those of one agent, when none of its containers is left."""
    for name in networks_of(engine, node_label(cluster, agent_id)):
        engine.remove_network(name)


def forms(secret: str) -> set[bytes]:
    """As it is, in base64 at each alignment, in hex, and as parts of URLs and of JSON."""
    plain = secret.encode()
    found = {plain, plain.hex().encode(), plain.hex().upper().encode(), json.dumps(secret)[1:-1].encode()}
    found |= {quote(secret, safe="").encode(), quote(secret).encode(), quote_plus(secret).encode()}
    for shift in range(3):
        for encoded in (base64.b64encode, base64.urlsafe_b64encode):
            # Without what depends on the neighbours.
            middle = encoded(b"\0" * shift + plain).rstrip(b"=")
            found.add(middle[(shift * 8 + 5) // 6 : -1])
    return found


def found_in(secrets: Mapping[str, str], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """`what is in where` for each secret that stands there in some form."""
    wanted = {name: forms(secret) for name, secret in secrets.items()}
    return sorted(
        f"{name} is in {place}"
        for place, content in places
        for name, each in wanted.items()
        if any(form in content for form in each)
    )


async def everything(folder: Path) -> list[tuple[str, bytes]]:
    """Histories as Temporal has them, all tables, all files (logs, both databases' own), all processes' arguments."""
    record = read_run(Place(folder))
    assert record is not None
    return [
        *[(f"history of {name}", content) for name, content in await _histories(record.temporal)],
        *[(f"table {name}", content) for name, content in await _tables(record.database_url)],
        *[(f"file {path.relative_to(folder)}", path.read_bytes()) for path in _files(folder)],
        *[(f"arguments of {pid}", content) for pid, content in _arguments()],
    ]


async def _histories(address: str) -> list[tuple[str, bytes]]:
    """Raw, through no codec: what anybody reads who may read Temporal."""
    client = await Client.connect(address)
    listed = await client.workflow_service.list_workflow_executions(
        ListWorkflowExecutionsRequest(namespace="default", page_size=1000)
    )
    found = []
    for one in listed.executions:
        content, page = one.SerializeToString(), b""
        described = await client.workflow_service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(namespace="default", execution=one.execution)
        )
        content += described.SerializeToString()
        while True:
            events = await client.workflow_service.get_workflow_execution_history(
                GetWorkflowExecutionHistoryRequest(namespace="default", execution=one.execution, next_page_token=page)
            )
            content += events.SerializeToString()
            page = events.next_page_token
            if not page:
                break
        found.append((one.execution.workflow_id, content))
    return found


async def _tables(database_url: str) -> list[tuple[str, bytes]]:
    connection = await asyncpg.connect(database_url)
    names = await connection.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
                                   " AND table_type = 'BASE TABLE' ORDER BY 1")  # fmt: skip
    found = []
    for (name,) in names:
        for form in ("text", "binary"):
            content = io.BytesIO()
            await connection.copy_from_table(name, output=content, format=form)
            found.append((name, content.getvalue()))
    await connection.close()
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.name not in _KEYS:
            yield path


def _arguments() -> Iterator[tuple[int, bytes]]:
    for process in psutil.process_iter():
        try:
            yield process.pid, "\0".join(process.cmdline()).encode()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
