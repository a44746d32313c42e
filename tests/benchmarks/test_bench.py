"""Each benchmark in its smallest form: it starts what it needs, proves its work, and ends with its figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def figures_of(*arguments: str) -> dict[str, Any]:
    moor = str(Path(sys.executable).parent / "moor")
    done = subprocess.run([moor, "bench", *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_whole_lives_are_measured_against_bare_workflows() -> None:
    figures = figures_of("lifecycle", "--sessions", "5")
    assert set(figures) == {"sessions", "seconds", "per_s", "floor_per_s", "ratio", "events_per_session"}
    assert figures["sessions"] == 5
    assert figures["ratio"] > 0
    assert 0 < figures["events_per_session"] <= 25


def test_reads_are_measured_against_bare_handlers() -> None:
    figures = figures_of("api", "--seconds", "1", "--sessions", "100")
    assert set(figures) == {"get", "list"}
    for read in figures.values():
        assert set(read) >= {"per_s", "p99_ms", "bare_per_s", "ratio", "open_per_s", "cost"}
        assert read["ratio"] > 0
        assert read["cost"] < 1


@pytest.mark.docker
def test_a_node_is_measured_against_docker_alone() -> None:
    figures = figures_of("node", "--n", "1", "--containers", "2", "--seconds", "1")
    assert set(figures) == {"creates", "stop", "neighbour", "exit_to_terminated", "idle"}
    assert figures["creates"]["1"]["ratio"] > 0
    assert figures["stop"]["ratio"] > 0
    assert set(figures["neighbour"]) >= {"busy loop", "fork bomb", "memory hog", "disk filler"}
    assert figures["exit_to_terminated"]["p50_ms"] > 0
    assert figures["idle"]["containers"] == 2
    assert figures["idle"]["mb"] > 0
    left = subprocess.run(["docker", "ps", "-aq", "--filter", "label=moorage.bench"], capture_output=True, check=True)
    assert left.stdout == b""
