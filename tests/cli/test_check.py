"""`moor check` finds what was really broken, and says what it looked at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from temporalio.client import Client

from moorage.cli.up.state import Place, RunRecord, read_run
from moorage.contracts import names
from moorage.contracts.activities import SessionInput
from moorage.db.engine import connect
from moorage.domain.ids import new_id
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.slow]
ALL_HOLDS = "all invariants hold"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(Path(tmp_path_factory.mktemp("cluster")), runtime="simulated")
    yield cluster
    cluster.close()


@pytest.fixture
async def temporal(cluster: Cluster) -> AsyncIterator[Client]:
    """The reaper repairs what these tests break, so it works when told only."""
    client = await Client.connect(record_of(cluster).temporal)
    reaper = client.get_schedule_handle("reaper")
    await reaper.pause()
    yield client
    await reaper.unpause()


def record_of(cluster: Cluster) -> RunRecord:
    record = read_run(Place(cluster.folder))
    assert record is not None
    return record


def checked(cluster: Cluster) -> tuple[int, dict[str, Any]]:
    outcome = cluster.moor("check", "--json", "--data-dir", str(cluster.folder))
    return outcome.returncode, json.loads(outcome.stdout)


async def make_older(cluster: Cluster, session_id: str) -> None:
    engine = connect(record_of(cluster).database_url, pool_size=1)
    async with engine.begin() as connection:
        query = (
            "UPDATE sessions SET created_at = created_at - interval '1 hour',"
            " status_changed = status_changed - interval '1 hour' WHERE id = :id"
        )
        await connection.execute(text(query), {"id": session_id})
    await engine.dispose()


async def test_a_session_whose_workflow_was_terminated_is_told_until_the_reaper_has_ended_it(
    cluster: Cluster, temporal: Client
) -> None:
    session_id = cluster.submit("sleep", "600")
    cluster.wait_for(session_id, "RUNNING")
    await make_older(cluster, session_id)
    assert cluster.violations() == ALL_HOLDS
    await temporal.get_workflow_handle(names.session_workflow(session_id)).terminate("by hand")
    code, found = checked(cluster)
    assert code == 1
    assert f"session {session_id} is RUNNING and no workflow of it runs" in found["violations"][0]
    await temporal.get_schedule_handle("reaper").trigger()
    assert cluster.wait_for(session_id, "ERROR")["reason"] == "cancelled-by-admin"
    assert cluster.violations() == ALL_HOLDS


async def test_a_workflow_that_no_row_asked_for_is_told(cluster: Cluster, temporal: Client) -> None:
    session_id = new_id()
    session = SessionInput(session_id, "s", "ada", "p", "default")
    handle = await temporal.start_workflow(
        "SessionWorkflow", session, id=names.session_workflow(session_id), task_queue="nobody"
    )
    await asyncio.to_thread(cluster.until, lambda: cluster.violations() != ALL_HOLDS, "it is in Temporal's list")
    assert f"a workflow of session {session_id} runs, which is not in the database" in cluster.violations()
    await handle.terminate()
    await asyncio.to_thread(cluster.until, lambda: cluster.violations() == ALL_HOLDS, "all invariants hold again")


def test_it_says_what_it_could_not_look_at_and_why(cluster: Cluster) -> None:
    outcome = cluster.moor("check", "--data-dir", str(cluster.folder))
    assert (outcome.returncode, outcome.stdout) == (0, f"{ALL_HOLDS}\n")
    assert outcome.stderr.splitlines() == [
        "checked: database, workflows",
        "not checked: containers (no node of this machine runs containers with Docker)",
    ]


@pytest.mark.docker
def test_a_container_that_no_session_has_is_told_until_its_node_has_killed_it(tmp_path: Path) -> None:
    cluster, container = Cluster(tmp_path / "cluster", runtime="docker"), ""
    try:
        assert set(checked(cluster)[1]["checked"]) == {"database", "workflows", "containers"}
        agent = cluster.pid("node1")
        os.kill(agent, signal.SIGSTOP)  # else it would be killed before it is old enough to be told
        container = made_by_hand(
            names.node_label(json.loads((cluster.folder / "run.json").read_text())["cluster"], "node1")
        )
        cluster.until(lambda: cluster.violations() != ALL_HOLDS, "the container is told")
        assert f"container {container[:12]}" in cluster.violations()
        assert "there is no such kernel" in cluster.violations()
        os.kill(agent, signal.SIGCONT)
        cluster.until(lambda: cluster.violations() == ALL_HOLDS, "its node has killed it")
        container = ""
    finally:
        cluster.close()
        if container:
            subprocess.run(["docker", "rm", "-f", container], capture_output=True, check=True)


def made_by_hand(node: str) -> str:
    labels = {names.LABEL_AGENT: node, names.LABEL_ATTEMPT: "0"}
    labels |= {label: new_id() for label in (names.LABEL_SESSION, names.LABEL_KERNEL)}
    options = [word for label, value in labels.items() for word in ("--label", f"{label}={value}")]
    command = ["docker", "run", "-d", "--network=none", *options, "moorage-test-busybox:1", "sleep", "600"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
