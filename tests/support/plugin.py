"""The example plug-in, installed as its users install it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "shortest-first"


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH. Nothing is downloaded: it needs setuptools alone, which is here."""
    folder = tmp_path_factory.mktemp("plugin")
    source = tmp_path_factory.mktemp("source") / "shortest-first"
    source.mkdir()
    for name in ("pyproject.toml", "moorage_shortest_first.py"):
        (source / name).write_bytes((EXAMPLE / name).read_bytes())
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(source)], check=True)
    return folder
