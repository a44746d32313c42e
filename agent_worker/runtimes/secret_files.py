"""A session's secret files, in memory alone: in a folder of the node's shared memory that only the agent may enter.

Each is mounted into its container by itself, read-only. They outlive the agent, as containers do, and go with them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docker.types import Mount

from agent_worker.runtimes.contract import CreateRefused
from moorage.domain.session import KernelSpec

_MEMORY = Path("/dev/shm")  # noqa: S108 (nothing else is in memory on every Linux)


class SecretFiles:
    """`node` tells the agents of one machine apart. Blocks; every call is quick."""

    def __init__(self, node: str, memory: Path = _MEMORY) -> None:
        self.folder = memory / f"moorage-{os.geteuid()}-{hashlib.sha256(node.encode()).hexdigest()[:16]}"
        self._being_made: set[str] = set()

    @contextmanager
    def written(self, spec: KernelSpec) -> Iterator[list[Mount]]:
        """The mounts of its files while its container is made; without a container they are removed."""
        name = _name(spec.kernel_id, spec.attempt)
        self._being_made.add(name)
        try:
            yield self._write(name, spec)
        except BaseException:
            self.remove(spec.kernel_id, spec.attempt)
            raise
        finally:
            self._being_made.discard(name)

    def hand_over(self, spec: KernelSpec, user: Callable[[], tuple[int, int]]) -> None:
        """The files belong to the container's user; if the agent may not give them away, all users in it may read."""
        if not spec.files:
            return
        uid, gid = user()
        for number in range(len(spec.files)):
            file = self.folder / _name(spec.kernel_id, spec.attempt) / str(number)
            try:
                os.chown(file, uid, gid)
            except PermissionError:
                file.chmod(0o444)

    def remove(self, kernel_id: str, attempt: int) -> None:
        shutil.rmtree(self.folder / _name(kernel_id, attempt), ignore_errors=True)

    def close(self) -> None:
        """The folder goes if nothing is in it: containers outlive the agent, and so do their files."""
        with suppress(OSError):
            self.folder.rmdir()

    def contents(self, kernel_id: str, attempt: int) -> list[bytes]:
        return [path.read_bytes() for path in sorted((self.folder / _name(kernel_id, attempt)).glob("*"))]

    def sweep(self, containers: Callable[[], Collection[tuple[str, int]]]) -> None:
        """What belongs to no container is removed; `containers` is asked after the look at the files."""
        if not self.folder.is_dir():
            return
        found = {path.name for path in self.folder.iterdir()} - self._being_made
        if found:
            kept = {_name(kernel_id, attempt) for kernel_id, attempt in containers()}
            for name in found - kept:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _write(self, name: str, spec: KernelSpec) -> list[Mount]:
        if not spec.files:
            return []
        folder = self._own_folder() / name
        mounts = []
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for number, (path, content) in enumerate(sorted(spec.files.items())):
                _put(folder / str(number), base64.b64decode(content))
                mounts.append(Mount(path, str(folder / str(number)), type="bind", read_only=True))
        except OSError as error:
            raise CreateRefused(f"this node has no memory for secret files: {error.strerror}") from None
        return mounts

    def _own_folder(self) -> Path:
        """Made by us, or refused: the place is writable by everybody on the node."""
        try:
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
            found = self.folder.lstat()
        except OSError as error:
            raise CreateRefused(f"this node has no memory for secret files: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise CreateRefused(f"{self.folder} on this node does not belong to the agent alone")
        return self.folder


def user_of(user: str, passwd: bytes) -> tuple[int, int]:
    """The numbers of an image's user: `name`, `name:group` or numbers. An unknown name or group is root's."""
    name, _, group = user.partition(":")
    lines = [line.split(":") for line in passwd.decode(errors="replace").splitlines() if line.count(":") >= 3]
    known = next((line for line in lines if name in (line[0], line[2])), None)
    uid = name if name.isdecimal() else (known[2] if known else "0")
    gid = group if group.isdecimal() else (known[3] if known else "0")
    return _number(uid), _number(gid)


def first_file(archive: bytes) -> bytes:
    """The content of an archive of one file."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for entry in tar:
            if (file := tar.extractfile(entry)) is not None:
                return file.read()
    return b""


def _name(kernel_id: str, attempt: int) -> str:
    return f"{kernel_id}-{attempt}"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 10 else 0


def _put(file: Path, content: bytes) -> None:
    """A file that is there already was written by an earlier try, and may be mounted.

    Whole or not at all: half a file that a killed agent left can't be opened for writing by its owner.
    """
    if file.exists() and file.read_bytes() == content:
        return
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(content)
    partial.replace(file)
