"""What a container wrote, kept on the node when it is removed: head and tail, with what was left out said between."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moorage.domain.log_lines import Lines, stamp_of

_CHUNK = 64 * 1024
_LOOK_S = 3600.0
_STAMPED = ".stamped.log"
_NAME = re.compile(r"-(\d+)(?:\.stamped)?\.log$")


@dataclass(frozen=True, slots=True)
class Kept:
    """The log of one attempt that ended. Those of releases before stamps have none: `since` leaves out nothing."""

    path: Path
    attempt: int

    @property
    def is_stamped(self) -> bool:
        return self.path.name.endswith(_STAMPED)

    async def read(self, *, tail: int | None = None, since: str = "", stamps: bool = False) -> AsyncIterator[bytes]:
        """As Runtime.logs gives it; never more than 64 KiB of it in memory."""
        lines = Lines(stamps=stamps) if self.is_stamped else None
        at = await asyncio.to_thread(self._start, since, tail)
        while piece := await asyncio.to_thread(self._piece, at):
            at += len(piece)
            yield lines.feed(piece) if lines else piece
        if lines:
            yield lines.rest()

    def _start(self, since: str, tail: int | None) -> int:
        if tail is None and not since:
            return 0
        at, begun = 0, not (since and self.is_stamped)
        starts = deque[int](maxlen=tail)
        with self.path.open("rb") as file:
            for line in file:
                begun = begun or stamp_of(line) >= since
                if begun:
                    starts.append(at)
                at += len(line)
        return starts[0] if starts else at

    def _piece(self, at: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(at)
            return file.read(_CHUNK)


class KeptLogs:
    def __init__(self, directory: Path, *, cap_bytes: int) -> None:
        self._directory = directory
        self._half = cap_bytes // 2

    async def keep(
        self, session_id: str, kernel_id: str, attempt: int, chunks: AsyncIterator[bytes], *, stamped: bool = False
    ) -> int:
        """Writes the file at once or not at all; returns its size in bytes. `stamped`: lines begin with stamps."""
        head, head_size = bytearray(), 0
        tail: deque[bytes] = deque()
        tail_size = left_out = 0
        async for chunk in chunks:
            room = self._half - head_size
            if room > 0:
                head += chunk[:room]
                head_size = len(head)
                chunk = chunk[room:]
            if chunk:
                tail.append(chunk)
                tail_size += len(chunk)
            while tail_size > self._half:
                surplus = tail_size - self._half
                first = tail.popleft()
                cut = min(surplus, len(first))
                if cut < len(first):
                    tail.appendleft(first[cut:])
                tail_size -= cut
                left_out += cut
        end = b"".join(tail)
        if stamped and left_out:  # the half of a stamp would look like something that was written
            cut = end.find(b"\n") + 1
            end, left_out = end[cut:], left_out + cut
        gap = f"\n[… {left_out} bytes left out …]\n".encode() if left_out else b""
        path = self._path(session_id, kernel_id, attempt, _STAMPED if stamped else ".log")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            partial.write_bytes(bytes(head) + gap + end)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)  # half a log on a full disk keeps the next one out too
            raise
        return path.stat().st_size

    async def tend(self, keep_s: float) -> None:
        """For ever: what was kept longer ago is removed. 0 keeps everything."""
        while keep_s:
            await asyncio.to_thread(self.forget, older_than=time.time() - keep_s)
            await asyncio.sleep(_LOOK_S)
        await asyncio.Event().wait()

    def forget(self, *, older_than: float) -> None:
        """Logs of before that (seconds since 1970) are removed, and the folders of sessions that have none left."""
        for log in self._directory.glob("*/*.log"):
            with suppress(OSError):  # somebody else may clean up too
                if log.stat().st_mtime < older_than:
                    log.unlink()
                    log.parent.rmdir()  # refused while another one is there

    def find(self, session_id: str, kernel_id: str, attempt: int | None = None) -> Kept | None:
        """The log of that attempt, else of the kernel's last one, that ended here."""
        found = [
            Kept(path, int(name[1]))
            for path in (self._directory / session_id).glob(f"{kernel_id}-*.log")
            if (name := _NAME.search(path.name))
        ]
        wanted = [kept for kept in found if attempt in (None, kept.attempt)]
        return max(wanted, key=lambda kept: (kept.attempt, kept.is_stamped), default=None)

    def newest(self, session_id: str, kernel_id: str) -> Path | None:
        found = self.find(session_id, kernel_id)
        return found.path if found else None

    def _path(self, session_id: str, kernel_id: str, attempt: int, ending: str) -> Path:
        return self._directory / session_id / f"{kernel_id}-{attempt}{ending}"
