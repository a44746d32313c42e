"""The `moor` command as its own process, against an app that is served on a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI

Moor = Callable[..., "subprocess.CompletedProcess[str]"]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The address of the app while it is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


def moor_for(endpoint: str, folder: Path) -> Moor:
    """Calls `moor` with keys for the endpoint; keyword arguments change its environment."""
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
    ours = {"MOORAGE_ENDPOINT": endpoint, "MOORAGE_ACCESS_KEY": "a", "MOORAGE_SECRET_KEY": "s"}
    env = outer | ours | {"MOORAGE_CONFIG_DIR": str(folder)}

    def call(*arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "moorage.cli.main", *arguments],
            env=env | changed,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return call
