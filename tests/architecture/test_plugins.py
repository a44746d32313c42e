"""Built-in orders and selectors are plug-ins like others; an example of somebody else's is installed and used."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from agent_worker.accelerators import found
from moorage import plugins
from moorage.scheduler.order import ORDERS
from moorage.scheduler.score import SELECTORS

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "shortest-first"
DEVICES = """
import asyncio
from agent_worker.accelerators.found import accelerators
from agent_worker.inventory import Inventory
from moorage.settings import Settings

async def show():
    inventory = Inventory(accelerators(Settings(agent_cuda_offer="none")))
    await inventory.take_stock()
    for device in inventory.devices:
        print(device.device_id, device.slot)
    print(accelerators(Settings())["fuse"].reserve({"fuse-2": 1}).nodes)

asyncio.run(show())
"""
ASK = "from moorage import plugins; print(*plugins.order_names(), *plugins.selector_names())"


@pytest.mark.parametrize(
    ("group", "built_in"),
    [(plugins.ORDERS_GROUP, ORDERS), (plugins.SELECTORS_GROUP, SELECTORS)],
    ids=["orders", "selectors"],
)
def test_built_in_ones_are_registered_by_the_same_entry_points(group: str, built_in: dict[str, object]) -> None:
    registered = {point.name: point.load()() for point in entry_points(group=group)}
    assert {name: type(one) for name, one in registered.items()} == {name: type(one) for name, one in built_in.items()}


def test_built_in_accelerators_are_registered_by_the_same_entry_points() -> None:
    project = tomllib.loads((EXAMPLE.parents[2] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][found.GROUP] == found.BUILT_IN
    assert all(callable(point.load()) for point in found.points())


def test_an_accelerator_of_somebody_else_offers_its_devices_once_it_is_installed(accelerator_plugin: Path) -> None:
    environment = {"PYTHONPATH": f"{accelerator_plugin}:{EXAMPLE.parents[2]}", "PATH": "/usr/bin:/bin"}
    known = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True, check=True)
    assert known.stdout.splitlines() == [
        "fuse-0 fuse.device", "fuse-1 fuse.device", "fuse-2 fuse.device", "fuse-3 fuse.device", "['/dev/fuse']",
    ]  # fmt: skip


def test_an_accelerator_that_fails_to_load_or_takes_a_built_in_name_is_left_out(tmp_path: Path) -> None:
    information = tmp_path / "odd-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{found.GROUP}]\ncuda = odd:Odd\nodd = odd:Odd\n")
    (tmp_path / "odd.py").write_text("raise ImportError('half installed')\n")
    ask = "from agent_worker.accelerators import found; from moorage.settings import Settings;" \
          "print(sorted(found.accelerators(Settings())))"  # fmt: skip
    environment = {"PYTHONPATH": f"{tmp_path}:{EXAMPLE.parents[2]}", "PATH": "/usr/bin:/bin"}
    known = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True)
    assert known.stdout.splitlines()[-1] == "['cuda', 'simulated']"
    assert "half installed" in known.stdout + known.stderr


def test_the_example_is_known_once_it_is_installed(plugin: Path) -> None:
    environment = {"PYTHONPATH": f"{plugin}:{EXAMPLE.parents[2]}", "PATH": "/usr/bin:/bin"}
    known = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=True)
    assert "shortest-first" in known.stdout.split()
    assert "most-memory" in known.stdout.split()
