"""The long-running roles, each one process: api, worker, agent. All settings come from MOORAGE_* variables."""

from __future__ import annotations

import importlib


def api() -> None:
    """Serve the REST and GraphQL API and the console."""
    importlib.import_module("api.main").main()


def worker() -> None:
    """Run workflows and control-plane activities."""
    importlib.import_module("workers.control").main()


def agent() -> None:
    """Run containers on this node."""
    importlib.import_module("agent_worker.main").main()
