"""The files of a simulated container: in memory, and gone with the agent."""

from __future__ import annotations

import base64
import io
import posixpath
import tarfile
import time
from collections.abc import AsyncIterator, Mapping

from agent_worker.runtimes.archive import Owner, checked
from agent_worker.runtimes.contract import FileFound, FileRefused

_MOST_BYTES = 256 * 1024**2
_CHUNK = 64 * 1024
_NOBODYS = Owner(0, 0)


class SimulatedFiles:
    def __init__(self, given: Mapping[str, str]) -> None:
        """`given`: path → content in base64."""
        self._folders = {"/", "/tmp", "/work"}  # noqa: S108 (no real folder)
        self._files: dict[str, tuple[bytes, int, float]] = {}  # content, mode, when it was changed
        for path, content in given.items():
            self._put(posixpath.normpath(path), base64.b64decode(content), 0o400, time.time())

    def read(self, path: str) -> bytes | None:
        found = self._files.get(posixpath.normpath(path))
        return found[0] if found else None

    def write(self, path: str, content: bytes) -> None:
        """Without content it is emptied, if it is there."""
        path = posixpath.normpath(path)
        if content or path in self._files:
            self._put(path, content, 0o644, time.time())

    def find(self, path: str) -> FileFound:
        path = posixpath.normpath(path)
        name = posixpath.basename(path) or "/"
        if path in self._folders:
            return FileFound(name, 0, 0o755, time.time(), is_folder=True)
        if path not in self._files:
            raise FileRefused(f"{path[:200]} is not there", missing=True)
        content, mode, modified = self._files[path]
        return FileFound(name, len(content), mode, modified, is_folder=False)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        path, top = posixpath.normpath(path), self.find(path).name
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for one in sorted({*self._folders, *self._files}):
                if one == path or one.startswith(path.rstrip("/") + "/"):
                    self._add(tar, one, posixpath.normpath(posixpath.join(top, posixpath.relpath(one, path))))
        packed.seek(0)
        while piece := packed.read(_CHUNK):
            yield piece

    async def upload(self, folder: str, archive: AsyncIterator[bytes]) -> None:
        if not self.find(folder).is_folder:
            raise FileRefused(f"{folder[:200]}: not a directory")
        packed = io.BytesIO()
        async for piece in checked(archive, _NOBODYS):
            if packed.tell() + len(piece) > _MOST_BYTES:
                raise FileRefused(f"a simulated container takes {_MOST_BYTES} bytes at once, no more")
            packed.write(piece)
        packed.seek(0)
        with tarfile.open(fileobj=packed) as tar:
            for entry in tar:
                path = posixpath.normpath(posixpath.join(folder, entry.name))
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is not None:
                    self._put(path, content.read(), entry.mode, float(entry.mtime))
                elif entry.isdir():
                    self._have_folder(path)

    def _put(self, path: str, content: bytes, mode: int, modified: float) -> None:
        self._have_folder(posixpath.dirname(path))
        self._files[path] = (content, mode, modified)

    def _have_folder(self, path: str) -> None:
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def _add(self, tar: tarfile.TarFile, path: str, name: str) -> None:
        entry = tarfile.TarInfo(name)
        if path in self._folders:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
            return
        content, entry.mode, modified = self._files[path]
        entry.size, entry.mtime = len(content), int(modified)
        tar.addfile(entry, io.BytesIO(content))
