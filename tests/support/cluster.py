"""A whole Moorage of real parts, started by `moor up` on data of its own, for tests that kill them."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil

_T = TypeVar("_T")
_MOOR = str(Path(sys.executable).parent / "moor")


class Cluster:
    """Its requests are repeated while a part is away, as a patient client's are."""

    def __init__(
        self, folder: Path, *, runtime: str, agents: int = 1, environment: Mapping[str, str] | None = None
    ) -> None:
        """`environment` is added to that of all parts."""
        self.folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")},
            "MOORAGE_CONFIG_DIR": str(folder / "client"),
            **(environment or {}),
        }
        port = _free_block(agents)
        up = self.moor(
            "up",
            "--data-dir",
            str(folder),
            "--port",
            str(port),
            "--agents",
            str(agents),
            "--runtime",
            runtime,
            "--detach",
        )
        assert up.returncode == 0, up.stderr + up.stdout
        admin = tomllib.loads((folder / "admin.toml").read_text())
        credential = base64.b64encode(f"{admin['access_key']}:{admin['secret_key']}".encode()).decode()
        self._client = httpx.Client(
            base_url=admin["endpoint"], headers={"Authorization": f"Basic {credential}"}, timeout=30
        )

    def close(self) -> None:
        self._client.close()
        self.moor("down", "--data-dir", str(self.folder))

    def moor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([_MOOR, *arguments], env=self._environment, capture_output=True, text=True, check=False)

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Repeated on refused connections and 503 for up to a minute."""
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self._client.request(method, path, **options)
                if answer.status_code != 503:
                    found: dict[str, Any] = answer.json() if answer.content else {}
                    return {**found, "http_status": answer.status_code}
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, f"{method} {path} was not answered within a minute"
            _pause(0.1)

    def submit(self, *command: str, key: str = "", **wish: Any) -> str:
        body = {"image": "moorage-test-busybox:1", "type": "batch", "command": list(command), **wish}
        headers = {"Idempotency-Key": key} if key else {}
        made = self.request("POST", "/session", json=body, headers=headers)
        assert made["http_status"] == 201, made
        return str(made["id"])

    def wait_for(self, session_id: str, *statuses: str, within_s: float = 90) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        session = self.request("GET", f"/session/{session_id}")
        while session["status"] not in statuses:
            assert time.monotonic() < deadline, f"still {session['status']}, not {statuses}: {session['status_info']}"
            query = {"wait_from": session["status"], "wait_s": "2"}
            session = self.request("GET", f"/session/{session_id}", params=query)
        return session

    def steps(self, session_id: str) -> list[str]:
        return [event["to_status"] for event in self.request("GET", f"/session/{session_id}/events")["items"]]

    def kill(self, part: str) -> None:
        """kill -9 of the process that has the part now; returns when its successor is there."""
        before = self.pid(part)
        os.kill(before, signal.SIGKILL)
        self.until(lambda: self.pid(part) != before and psutil.pid_exists(self.pid(part)), f"{part} is started again")

    def violations(self) -> str:
        return self.moor("check", "--data-dir", str(self.folder)).stdout.strip()

    def until(self, holds: Callable[[], object], what: str, *, within_s: float = 60) -> None:
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
            _pause(0.05)

    def pid(self, part: str) -> int:
        """Of the process that has the part now."""
        for _ in range(20):
            try:
                parts = json.loads((self.folder / "run.json").read_text())["parts"]
                return next(int(one["pid"]) for one in parts if one["name"] == part)
            except (ValueError, StopIteration):
                _pause(0.05)
        raise AssertionError(f"no part {part}")


def _pause(seconds: float) -> None:
    """Between two looks at something that has no event to wait for."""
    import select

    select.select([], [], [], seconds)


def _free_block(agents: int) -> int:
    """A port from which on all that `moor up` needs are free. Runs beside each other begin to look elsewhere."""
    for number in range(90):
        base = 21000 + (os.getpid() + number) % 90 * 100
        try:
            for port in (base, base + 1, base + 2, *(base + 10 + n for n in range(agents))):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return base
    raise AssertionError("no free ports")
