"""`moor cp`: files and folders between here and a session."""

from __future__ import annotations

import posixpath
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json, Refused
from moorage.cli.sessions import AsJson, Kernel
from moorage.cli.sockets import Broken
from moorage.cli.tars import packed, unpack
from moorage.domain.errors import Conflict, InvalidRequest
from moorage.domain.resources import format_slot

_EACH_S = 0.5


@dataclass(frozen=True, slots=True)
class _There:
    ref: str
    path: str


def cp(
    source: Annotated[str, typer.Argument(help="A file or folder here, or SESSION:/path.")],
    target: Annotated[str, typer.Argument(help="SESSION:/path, or a file or folder here.")],
    kernel: Kernel = "main1",
    json: AsJson = False,
) -> None:
    """Copy files and folders into a session or out of it. Into a folder that exists, under the same name."""
    there, here = _there(source), _there(target)
    if (there is None) == (here is None):
        raise InvalidRequest("one of the two must be in a session, as SESSION:/path", hint="a path here: ./name:with")
    if there is not None:
        result = _down(Client(), there, Path(target), kernel)
    else:
        assert here is not None
        result = _up(Client(), Path(source), here, kernel)
    if json:
        show.as_json(result)


def _there(words: str) -> _There | None:
    ref, colon, path = words.partition(":")
    if not colon or not ref or "/" in ref or ref.startswith("."):
        return None
    return _There(ref, path if path.startswith("/") else f"/{path}")


def _up(client: Client, source: Path, target: _There, kernel: str) -> Json:
    if not source.exists():
        raise InvalidRequest(f"{source} is not there")
    name = source.resolve().name if source.name in ("", ".", "..") else source.name
    folder, root = _place(client, target, name, kernel, is_folder=source.is_dir())
    shown = _Progress(str(source))
    answer = client.upload(target.ref, folder, shown.counted(packed(source, root)), kernel)
    path = posixpath.join(folder, root)
    shown.done(f"{target.ref}:{path}")
    return {"path": path, "bytes": answer["bytes"]}


def _place(client: Client, target: _There, name: str, kernel: str, *, is_folder: bool) -> tuple[str, str]:
    """(the folder there, the name in it)"""
    try:
        found = client.find_file(target.ref, target.path, kernel)
    except Refused as error:
        if error.code != "file-not-found":
            raise
        if target.path.endswith("/"):
            raise
        return posixpath.dirname(target.path) or "/", posixpath.basename(target.path)
    if found["is_folder"]:
        return target.path, name
    if is_folder:
        raise Conflict(f"{target.ref}:{target.path} is a file; a folder can't take its place")
    return posixpath.dirname(target.path) or "/", posixpath.basename(target.path)


def _down(client: Client, source: _There, target: Path, kernel: str) -> Json:
    found = client.find_file(source.ref, source.path, kernel)
    into, root = (target, found["name"]) if target.is_dir() else (target.parent, target.name)
    if not into.is_dir():
        raise InvalidRequest(f"{into} is no folder")
    if found["is_folder"] and (into / root).is_file():
        raise Conflict(f"{into / root} is a file; a folder can't take its place")
    shown, files = _Progress(f"{source.ref}:{source.path}"), 0

    def count(name: str, size: int) -> None:
        nonlocal files
        files += 1

    try:
        unpack(shown.counted(client.download(source.ref, source.path, kernel)), into, root, count)
    except tarfile.ReadError:
        raise Broken(f"{source.ref}:{source.path} broke off; what has come is in {into / root}") from None
    except tarfile.FilterError as error:
        raise Conflict(f"{error.tarinfo.name} leads out of the folder and was not written: {error}") from None
    shown.done(str(into / root))
    return {"path": str(into / root), "bytes": shown.size, "entries": files}


class _Progress:
    """On stderr: while it lasts on a terminal, and what it was at the end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.size = 0
        self._began = time.monotonic()

    def counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        told = self._began
        for piece in pieces:
            self.size += len(piece)
            if sys.stderr.isatty() and time.monotonic() - told > _EACH_S:
                told = time.monotonic()
                sys.stderr.write(f"\r{show.printable(self._what)}  {self._amount()}\033[K")
                sys.stderr.flush()
            yield piece

    def done(self, where: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")
        show.note(f"{self._what} → {where}  {self._amount()}")

    def _amount(self) -> str:
        took_s = max(time.monotonic() - self._began, 0.001)
        return f"{format_slot('mem', self.size)}, {format_slot('mem', round(self.size / took_s))}/s"
