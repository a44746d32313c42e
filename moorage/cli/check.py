"""`moor check`: do the invariants hold? The database is compared with itself, with Temporal and with Docker."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.sessions import AsJson
from moorage.cli.up.state import DEFAULT_DIR_HELP, Place, read_run
from moorage.domain.errors import InvalidRequest, Unavailable
from moorage.domain.node import ContainerSeen

# A container that nobody expects is killed within this.
_OLD_ENOUGH_S = 20.0
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class Sources:
    """Where this cluster keeps what is compared. An empty `temporal` address: not known."""

    database_url: str
    temporal: str
    namespace: str = "default"
    api_key: str = ""
    cluster: str = "moorage"


@dataclass(frozen=True, slots=True)
class Findings:
    """Sentences about what is violated, the groups that were checked, and why others were not."""

    violations: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    not_checked: dict[str, str] = field(default_factory=dict)


def check(
    data_dir: Annotated[Path | None, typer.Option(help=DEFAULT_DIR_HELP)] = None,
    json: AsJson = False,
) -> None:
    """Check what must always hold: database, workflows, this machine's containers. Exit code 1 if something doesn't."""
    found = asyncio.run(look(_sources(data_dir)))
    if json:
        answer = {"violations": found.violations, "checked": found.checked, "not_checked": found.not_checked}
        show.as_json(answer)
    else:
        print("\n".join(show.printable(line) for line in found.violations) or "all invariants hold")
        show.note(f"checked: {', '.join(found.checked)}")
        for group, why in found.not_checked.items():
            show.note(f"not checked: {group} ({why})")
    raise typer.Exit(1 if found.violations else 0)


async def look(sources: Sources) -> Findings:
    """Each group of invariants that can be looked at from here."""
    # Loaded late: it brings the database libraries, which most verbs do not need.
    from moorage.db.invariants import violations

    found = Findings(await violations(sources.database_url), ["database"])
    groups: dict[str, Callable[[Sources], Awaitable[list[str]]]] = {"workflows": _workflows, "containers": _containers}
    for group, sentences in groups.items():
        try:
            found.violations.extend(await sentences(sources))
            found.checked.append(group)
        except Unavailable as error:
            found.not_checked[group] = error.message
    return found


async def _workflows(sources: Sources) -> list[str]:
    """Violations between rows and workflows; Unavailable when Temporal can't be asked."""
    from moorage.db.invariants import against_workflows

    return await against_workflows(sources.database_url, await _running(sources))


async def _running(sources: Sources) -> set[str]:
    """The sessions whose workflow runs."""
    from temporalio.service import RPCError

    from moorage.contracts import names
    from moorage.settings import Settings
    from moorage.temporal import connect_without_keys

    if not sources.temporal:
        raise Unavailable("MOORAGE_TEMPORAL_ADDRESS is not set")
    settings = Settings(
        temporal_address=sources.temporal, temporal_namespace=sources.namespace, temporal_api_key=sources.api_key
    )
    query = "WorkflowType = 'SessionWorkflow' AND ExecutionStatus = 'Running'"
    try:
        client = await asyncio.wait_for(connect_without_keys(settings), _ANSWER_S)
        return {one.id.removeprefix(names.session_workflow("")) async for one in client.list_workflows(query)}
    except (RPCError, RuntimeError, TimeoutError) as error:
        raise Unavailable(f"Temporal at {sources.temporal} does not answer: {str(error)[:120]}") from None


async def _containers(sources: Sources) -> list[str]:
    """Violations between rows and this machine's containers; Unavailable when there are none to look at."""
    from moorage.db.invariants import against_containers, docker_agents

    agents = await docker_agents(sources.database_url, socket.gethostname())
    if not agents:
        raise Unavailable("no node of this machine runs containers with Docker")
    return await against_containers(sources.database_url, await asyncio.to_thread(_labelled, sources.cluster, agents))


def _labelled(cluster: str, agents: list[str]) -> dict[str, list[ContainerSeen]]:
    """Agent → its containers that are old enough."""
    import docker
    import requests
    from docker.errors import DockerException
    from docker.utils import kwargs_from_env

    from moorage.contracts import names

    try:
        engine = os.environ.get("MOORAGE_AGENT_DOCKER_HOST", "")
        address = kwargs_from_env() | ({"base_url": engine} if engine else {})
        client = docker.APIClient(version="auto", timeout=_ANSWER_S, **address)
        try:
            return {
                agent: [
                    _seen(one)
                    for one in client.containers(
                        all=True,
                        filters={"label": [f"{names.LABEL_AGENT}={names.node_label(cluster, agent)}", *names.LABELS]},
                    )
                    if one["Created"] < time.time() - _OLD_ENOUGH_S
                ]
                for agent in agents
            }
        finally:
            client.close()
    except (DockerException, requests.RequestException, OSError) as error:
        raise Unavailable(f"no Docker engine answers: {str(error)[:120]}") from None


def _seen(found: dict[str, Any]) -> ContainerSeen:
    from moorage.contracts import names

    labels: dict[str, str] = found["Labels"]
    attempt = labels[names.LABEL_ATTEMPT]
    return ContainerSeen(
        labels[names.LABEL_SESSION],
        labels[names.LABEL_KERNEL],
        int(attempt) if attempt.isdecimal() else -1,
        str(found["Id"]),
        str(found["State"]),
    )


def _sources(data_dir: Path | None) -> Sources:
    """The settings of the environment, if it names a database, else what `moor up` runs in the folder."""
    url = os.environ.get("MOORAGE_DATABASE_URL", "")
    if url and data_dir is None:
        return Sources(
            url,
            os.environ.get("MOORAGE_TEMPORAL_ADDRESS", ""),
            os.environ.get("MOORAGE_TEMPORAL_NAMESPACE", "default"),
            os.environ.get("MOORAGE_TEMPORAL_API_KEY", ""),
            os.environ.get("MOORAGE_CLUSTER", "moorage"),
        )
    place = Place.of(data_dir)
    record = read_run(place)
    if record is None:
        raise InvalidRequest(
            f"nothing runs in {place.folder}, so there is no database to read",
            hint="start it with `moor up`, or set MOORAGE_DATABASE_URL",
        )
    return Sources(record.database_url, record.temporal, cluster=record.cluster)
