"""The data folder of `moor up`: where each thing lies, who holds the lock, what runs."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from moorage.cli.profile import read_toml, write_toml
from moorage.domain.errors import Conflict
from moorage.domain.ids import new_access_key, new_secret_key

DEFAULT_DIR_HELP = "Data folder; ~/.local/share/moorage by default."


@dataclass(frozen=True, slots=True)
class Place:
    """A data folder."""

    folder: Path

    @staticmethod
    def of(folder: Path | None) -> Place:
        """The folder given, or the user's default one."""
        if folder is not None:
            return Place(folder.expanduser().resolve())
        data = os.environ.get("XDG_DATA_HOME")
        return Place((Path(data) if data else Path.home() / ".local" / "share") / "moorage")

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def admin_file(self) -> Path:
        return self.folder / "admin.toml"

    def make(self) -> None:
        """The folder exists. As root it may be passed through (not listed), for the database's own user."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        self.logs.mkdir(exist_ok=True, mode=0o700)


@dataclass(frozen=True, slots=True)
class Ports:
    """All on 127.0.0.1: the API's, and from it the others'."""

    api: int
    agents: int

    @property
    def temporal(self) -> int:
        return self.api + 1

    @property
    def web_ui(self) -> int:
        return self.api + 2

    def agent(self, number: int) -> int:
        """Data plane of agent 1, 2, …"""
        return self.api + 9 + number

    def needed(self) -> dict[int, str]:
        fixed = {self.api: "the API", self.temporal: "Temporal", self.web_ui: "Temporal's Web UI"}
        return fixed | {self.agent(n): f"the data plane of node{n}" for n in range(1, self.agents + 1)}


@dataclass(slots=True)
class PartState:
    name: str
    pid: int = 0
    born: float = 0.0  # the process's start, seconds since 1970: a pid alone may be someone else's by now
    restarts: int = 0

    def alive(self) -> bool:
        return same_process(self.pid, self.born)


@dataclass(slots=True)
class RunRecord:
    """What `moor up` runs now; run.json."""

    pid: int
    born: float
    started: float
    ready: bool
    endpoint: str
    web_ui: str
    temporal: str
    database_url: str
    runtime: str
    agents: int
    cluster: str = ""
    parts: list[PartState] = field(default_factory=list)

    def alive(self) -> bool:
        return same_process(self.pid, self.born)

    def addresses(self, place: Place) -> list[str]:
        return [
            f"API              {self.endpoint}",
            f"API docs         {self.endpoint}/docs",
            f"Temporal Web UI  {self.web_ui}",
            f"keys             {place.admin_file}",
        ]

    def write(self, place: Place) -> None:
        draft = place.folder / ".run.json"
        draft.write_text(json.dumps(dataclasses.asdict(self), indent=2))
        draft.chmod(0o600)
        draft.replace(place.run_file)


def read_run(place: Place) -> RunRecord | None:
    """What runs or ran last; None when nothing is recorded."""
    try:
        content = json.loads(place.run_file.read_text())
        return RunRecord(**(content | {"parts": [PartState(**part) for part in content["parts"]]}))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def take_lock(place: Place) -> int:
    """The folder is ours until this process ends, however it ends. Refuses when another `moor up` has it."""
    descriptor = os.open(place.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Conflict(
            f"already running (pid {owner}) in {place.folder}",
            code="already-running",
            hint="`moor status` shows it, `moor down` stops it",
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def await_leftovers(place: Place, *, patience_s: float = 10.0) -> None:
    """Children of a `moor up` that was killed die with it, but not within the same millisecond."""
    record = read_run(place)
    deadline = time.monotonic() + patience_s
    while record and (left := [part for part in record.parts if part.alive()]):
        if time.monotonic() > deadline:
            names = ", ".join(f"{part.name} (pid {part.pid})" for part in left)
            raise Conflict(f"still running from before: {names}", hint="end them, then try again")
        time.sleep(0.05)


def load_keys(place: Place) -> dict[str, str]:
    """The cluster's secrets, made once and kept in keys.toml. Lost keys make stored payloads unreadable."""
    path = place.folder / "keys.toml"
    keys = read_toml(path)
    if not keys:
        keys = {
            "payload_keys": f"k1:{secrets.token_hex(32)}",
            "jwt_keys": f"k1:{secrets.token_hex(32)}",
            "dataplane_key": secrets.token_urlsafe(48),
            "admin_password": secrets.token_urlsafe(18),
            "admin_access_key": new_access_key(),
            "admin_secret_key": new_secret_key(),
            "cluster": secrets.token_hex(4),
        }
        write_toml(path, keys)
    if "jwt_keys" not in keys:  # of a cluster from before there was a ring
        keys["jwt_keys"] = f"k1:{keys.pop('jwt_key')}"
        write_toml(path, keys)
    return keys


def birth_of(pid: int) -> float:
    """When that process started, in seconds since 1970; 0 when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def same_process(pid: int, born: float) -> bool:
    """The process with this pid is alive, and not a later one that got its number."""
    try:
        process = psutil.Process(pid)
        return bool(abs(process.create_time() - born) < 1.0 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
