"""The benchmark runs and proves its own success before it tells a time."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from moorage.cli.bench.schedule import schedule

app = typer.Typer()
app.command()(schedule)


@pytest.mark.parametrize(
    ("case", "policy"),
    [
        ("busy", "fifo"), ("busy", "fair-share"), ("fill", "priority"), ("fill", "fair-share"), ("equal", "drf"),
        ("gang", "fifo"),
    ],
)  # fmt: skip
def test_each_case_places_something_and_ends_with_json(case: str, policy: str) -> None:
    size = ["--nodes", "200", "--waiting", "300", "--rounds", "1"]
    done = CliRunner().invoke(app, [*size, "--case", case, "--policy", policy, *(["--warm"] if case == "busy" else [])])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["placed"] > 0
    assert {"nodes", "waiting", "policy", "seconds", "placements_per_s"} <= result.keys()
    assert ("warm_seconds" in result) == (case == "busy")


def test_an_unknown_policy_is_refused() -> None:
    assert CliRunner().invoke(app, ["--policy", "best"]).exit_code == 2
