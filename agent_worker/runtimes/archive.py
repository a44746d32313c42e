"""A tar on its way into a container: looked at entry by entry while it passes, and never held.

Only files, folders and links may pass, with names and targets that stay within the folder. All becomes its owner's;
set-user-id bits and the like are dropped.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from agent_worker.runtimes.contract import FileRefused

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_EXTRA = 64 * 1024  # of what stands before an entry: long names, times
_PERMISSIONS = 0o777
_KINDS = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE}
_LINKS = {tarfile.SYMTYPE, tarfile.LNKTYPE}
_EXTRA = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


@dataclass(frozen=True, slots=True)
class Owner:
    uid: int
    gid: int


async def checked(archive: AsyncIterator[bytes], owner: Owner) -> AsyncGenerator[bytes, None]:
    """The same files as a new tar. FileRefused at the first entry that may not pass, and for what is no whole tar."""
    blocks, extra = _Blocks(archive), dict[str, str]()
    while any(head := await blocks.take(_BLOCK)):
        entry = _entry(head)
        if entry.type in _EXTRA or entry.type in _LONG:
            extra |= _read_extra(entry.type, await blocks.take_small(entry.size))
            continue
        _complete(entry, extra)
        extra = {}
        _check(entry)
        entry.uid, entry.gid, entry.uname, entry.gname = owner.uid, owner.gid, "", ""
        entry.mode &= _PERMISSIONS
        entry.pax_headers = {}
        yield entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        async for piece in blocks.pass_on(entry.size if entry.isreg() else 0):
            yield piece
    yield bytes(2 * _BLOCK)
    await blocks.drain()


def _entry(head: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise FileRefused(f"the body is no tar ({error})") from None


def _read_extra(kind: bytes, body: bytes) -> dict[str, str]:
    if kind in _LONG:
        return {_LONG[kind]: body.rstrip(b"\0").decode("utf-8", "surrogateescape")}
    if kind == tarfile.XGLTYPE:
        return {}
    found = {}
    while body:
        length, _, _ = body.partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(body):
            raise FileRefused("the body is no tar (bad extended header)")
        name, _, value = body[len(length) + 1 : int(length) - 1].partition(b"=")
        found[name.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        body = body[int(length) :]
    return found


def _complete(entry: tarfile.TarInfo, extra: dict[str, str]) -> None:
    """With what did not fit into its header."""
    entry.name = extra.get("path", entry.name).rstrip("/") if entry.name or "path" in extra else entry.name
    entry.linkname = extra.get("linkpath", entry.linkname)
    if any(name.startswith("GNU.sparse") for name in extra):
        raise FileRefused(f"{entry.name[:200]!r} is a file with holes; make the tar without --sparse")
    if "size" in extra:
        if not extra["size"].isdecimal():
            raise FileRefused("the body is no tar (bad size)")
        entry.size = int(extra["size"])
    if entry.size < 0:
        raise FileRefused("the body is no tar (negative size)")
    if "mtime" in extra and extra["mtime"].partition(".")[0].isdecimal():
        entry.mtime = int(extra["mtime"].partition(".")[0])


def _check(entry: tarfile.TarInfo) -> None:
    if entry.type not in _KINDS:
        raise FileRefused(f"{entry.name[:200]!r} is neither file, folder nor link; devices and pipes are not taken")
    depth = _depth(entry.name)
    if depth is None:
        raise FileRefused(f"{entry.name[:200]!r} is no name within the folder")
    if entry.type in _LINKS:
        # A hard link's target is named from the top of the archive, a symbolic link's from where the link lies.
        start = entry.name.rpartition("/")[0] if entry.issym() else ""
        if entry.linkname.startswith("/") or _depth(f"{start}/{entry.linkname}".lstrip("/")) is None:
            raise FileRefused(f"the link {entry.name[:200]!r} leads out of the folder, to {entry.linkname[:200]!r}")


def _depth(path: str) -> int | None:
    """How far below the folder it ends; None if it is absolute, empty, or leaves the folder on its way."""
    depth = 0
    if not path or path.startswith("/") or "\0" in path:
        return None
    for part in path.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return None
    return depth


class _Blocks:
    """What has come, in the amounts that are asked for."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._held = bytearray()

    async def take(self, size: int) -> bytes:
        while len(self._held) < size:
            self._held += await self._next()
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    async def take_small(self, size: int) -> bytes:
        if not 0 <= size <= _LONGEST_EXTRA:
            raise FileRefused(f"a header of the tar has {size} bytes; at most {_LONGEST_EXTRA} are taken")
        return (await self.take(_padded(size)))[:size]

    async def pass_on(self, size: int) -> AsyncIterator[bytes]:
        """With what fills up the last block."""
        left = _padded(size)
        while left:
            if not self._held:
                self._held += await self._next()
            piece = bytes(self._held[:left])
            del self._held[: len(piece)]
            left -= len(piece)
            yield piece

    async def drain(self) -> None:
        """Tars end with more zeros than they must."""
        while await anext(self._pieces, b""):
            pass

    async def _next(self) -> bytes:
        piece = await anext(self._pieces, b"")
        if not piece:
            raise FileRefused("the tar ends too early")
        return piece


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
