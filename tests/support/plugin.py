"""The example plug-ins, installed as their users install them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with an order and a selector."""
    return installed("shortest-first", tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="session")
def accelerator_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with an accelerator."""
    return installed("fuse-accelerator", tmp_path_factory.mktemp("plugin"))


def installed(example: str, folder: Path) -> Path:
    """Nothing is downloaded: it needs setuptools alone, which is here."""
    source = folder / "source" / example
    source.mkdir(parents=True)
    for file in (EXAMPLES / example).iterdir():
        if file.suffix in (".py", ".toml"):
            (source / file.name).write_bytes(file.read_bytes())
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)], check=True)
    return folder
