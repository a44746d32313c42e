"""Folders as tars and back, piece by piece."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from moorage.domain.errors import Conflict

_PIECE = 64 * 1024


def packed(path: Path, root: str) -> Iterator[bytes]:
    """A tar of a file or folder, whose names begin with `root`. What is neither file, folder nor link is left out."""
    for found, name in _found(path, root):
        entry = _entry(found, name)
        if entry is None:
            continue
        yield entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        if entry.isreg():
            yield from _content(found, entry.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def unpack(pieces: Iterator[bytes], into: Path, root: str, count: Callable[[str, int], None]) -> None:
    """Its top becomes `root` in the folder. Nothing is written outside of it (the `data` filter of tarfile)."""
    with tarfile.open(fileobj=cast("IO[bytes]", _Pieces(pieces)), mode="r|") as tar:
        for entry in tar:
            _, slash, below = entry.name.partition("/")
            tar.extract(entry.replace(name=f"{root}{slash}{below}"), into, filter="data")
            count(entry.name, entry.size)


def _found(path: Path, root: str) -> Iterator[tuple[Path, str]]:
    yield path, root
    if path.is_dir():
        for folder, folders, files in os.walk(path):
            below = Path(folder).relative_to(path)
            folders.sort()
            for name in sorted([*folders, *files]):
                yield Path(folder) / name, str(Path(root) / below / name)


def _entry(path: Path, name: str) -> tarfile.TarInfo | None:
    status, entry = path.lstat(), tarfile.TarInfo(name)
    entry.mode, entry.mtime = status.st_mode & 0o777, int(status.st_mtime)
    if path.is_symlink():
        entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
    elif path.is_dir():
        entry.type = tarfile.DIRTYPE
    elif path.is_file():
        entry.size = status.st_size
    else:
        return None
    return entry


def _content(path: Path, size: int) -> Iterator[bytes]:
    """As many bytes as the tar has said, and what fills up the last block."""
    left = size
    with path.open("rb") as file:
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                raise Conflict(f"{path} became shorter while it was read; try again")
            left -= len(piece)
            yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


class _Pieces:
    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    def read(self, size: int) -> bytes:
        while len(self._held) < size and (piece := next(self._pieces, b"")):
            self._held += piece
        data = bytes(self._held[:size])
        del self._held[:size]
        return data
