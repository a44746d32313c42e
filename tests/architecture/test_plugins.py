"""Built-in orders and selectors are plug-ins like others; an example of somebody else's is installed and used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from moorage import plugins
from moorage.scheduler.order import ORDERS
from moorage.scheduler.score import SELECTORS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "shortest-first"
ASK = "from moorage import plugins; print(*plugins.order_names(), *plugins.selector_names())"


@pytest.mark.parametrize(
    ("group", "built_in"), [(plugins.ORDERS_GROUP, ORDERS), (plugins.SELECTORS_GROUP, SELECTORS)], ids=str
)
def test_built_in_ones_are_registered_by_the_same_entry_points(group: str, built_in: dict[str, object]) -> None:
    registered = {point.name: point.load()() for point in entry_points(group=group)}
    assert {name: type(one) for name, one in registered.items()} == {name: type(one) for name, one in built_in.items()}


def test_the_example_is_known_once_it_is_installed(plugin: Path) -> None:
    environment = {"PYTHONPATH": f"{plugin}:{EXAMPLE.parents[2]}", "PATH": "/usr/bin:/bin"}
    known = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert "shortest-first" in known.stdout.split()
    assert "most-memory" in known.stdout.split()
