"""Verbs about the cluster on this machine: up, down, status."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.profile import Profile, read_toml
from moorage.cli.sessions import AsJson
from moorage.cli.up.state import DEFAULT_DIR_HELP, Place, Ports, RunRecord, read_run
from moorage.domain.errors import Conflict, MoorageError, Unavailable

DataDir = Annotated[Path | None, typer.Option(help=DEFAULT_DIR_HELP)]
_START_S = 90.0
_STOP_S = 60.0


def up(
    data_dir: DataDir = None,
    port: Annotated[
        int, typer.Option(help="The API's port; Temporal takes the next two, nodes those from +10.")
    ] = 8090,
    agents: Annotated[int, typer.Option(help="How many nodes.")] = 1,
    runtime: Annotated[str, typer.Option(help="docker or simulated.")] = "docker",
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Return when it is ready.")] = False,
    json: AsJson = False,
) -> None:
    """Start a whole cluster on this machine: PostgreSQL, Temporal, API, worker, nodes."""
    place = Place.of(data_dir)
    if detach:
        return _up_in_background(place, port, agents, runtime, json=json)
    # Loaded late: it brings the database and Temporal libraries, which no other verb needs.
    from moorage.cli.up.supervisor import run_cluster

    return run_cluster(place, Ports(port, agents), runtime=runtime, say=show.note)


def down(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Stop what `moor up` started. Data and sessions' containers stay."""
    place = Place.of(data_dir)
    record = read_run(place)
    running = record is not None and record.alive()
    if record is not None and running:
        os.kill(record.pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while record.alive():
            if time.monotonic() > deadline:
                raise Conflict(f"pid {record.pid} is still there after {_STOP_S:g} s; its log is {place.logs}")
            time.sleep(0.05)
    if json:
        show.as_json({"stopped": running})
    else:
        print("stopped" if running else f"nothing runs in {place.folder}")


def status(data_dir: DataDir = None, json: AsJson = False) -> None:
    """Show what `moor up` runs: parts, addresses, nodes. Exit code 1 when it is not running."""
    place = Place.of(data_dir)
    record = read_run(place)
    if record is None or not record.alive():
        if json:
            show.as_json({"running": False})
        else:
            print(f"nothing runs in {place.folder}")
        raise typer.Exit(1)
    nodes = _agents(place, record)
    if json:
        return show.as_json(_status_json(place, record, nodes))
    show.table(
        ["PART", "PID", "STATE", "RESTARTS"],
        [(part.name, part.pid, "alive" if part.alive() else "dead", part.restarts) for part in record.parts],
    )
    print("\n".join(record.addresses(place)))
    show.table(["AGENT", "STATUS"], nodes.items())
    return None


def _up_in_background(place: Place, port: int, agents: int, runtime: str, *, json: bool) -> None:
    place.make()
    options = [f"--data-dir={place.folder}", f"--port={port}", f"--agents={agents}", f"--runtime={runtime}"]
    # Appended to: a start that is refused must not wipe the log of the one that runs.
    with (place.logs / "up.log").open("a+") as log:
        began_at = log.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "moorage.cli.main", "up", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        record = _until_ready(place, child)
        if record is None:
            log.seek(began_at)
            raise Unavailable(log.read().strip().removeprefix("moor: "))
    if json:
        show.as_json(_status_json(place, record, _agents(place, record)))
    else:
        print("\n".join([f"running (pid {record.pid})", *record.addresses(place)]))


def _until_ready(place: Place, child: subprocess.Popen[bytes]) -> RunRecord | None:
    """What runs, or None when the child gave up; its words are in its log."""
    deadline = time.monotonic() + _START_S
    while child.poll() is None and time.monotonic() < deadline:
        record = read_run(place)
        if record is not None and record.pid == child.pid and record.ready:
            return record
        time.sleep(0.05)
    child.terminate()
    child.wait()
    return None


def _agents(place: Place, record: RunRecord) -> dict[str, str]:
    keys = read_toml(place.admin_file)
    profile = Profile(record.endpoint, keys.get("access_key", ""), keys.get("secret_key", ""))
    try:
        return {agent["id"]: agent["status"] for agent in Client(profile).agents()}
    except MoorageError as error:
        show.note(f"nodes are not known: {error.message}")
        return {}


def _status_json(place: Place, record: RunRecord, nodes: dict[str, str]) -> dict[str, object]:
    return {
        "running": True,
        "ready": record.ready,
        "pid": record.pid,
        "started": record.started,
        "endpoint": record.endpoint,
        "api_docs": f"{record.endpoint}/docs",
        "web_ui": record.web_ui,
        "temporal": record.temporal,
        "keys": str(place.admin_file),
        "runtime": record.runtime,
        "parts": [dataclasses.asdict(part) | {"alive": part.alive()} for part in record.parts],
        "agents": nodes,
    }
