"""What a container wrote, kept on the node when it is removed: head and tail, with what was left out said between."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path


class KeptLogs:
    def __init__(self, directory: Path, *, cap_bytes: int) -> None:
        self._directory = directory
        self._half = cap_bytes // 2

    async def keep(self, session_id: str, kernel_id: str, attempt: int, chunks: AsyncIterator[bytes]) -> int:
        """Writes the file at once or not at all; returns its size in bytes."""
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
        gap = f"\n[… {left_out} bytes left out …]\n".encode() if left_out else b""
        path = self._path(session_id, kernel_id, attempt)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        try:
            partial.write_bytes(bytes(head) + gap + b"".join(tail))
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)  # half a log on a full disk keeps the next one out too
            raise
        return path.stat().st_size

    def end_of(self, session_id: str, kernel_id: str, attempt: int, most: int) -> bytes:
        """The last bytes of what was kept; none of a log that was lost."""
        try:
            with self._path(session_id, kernel_id, attempt).open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - most))
                return file.read()
        except FileNotFoundError:
            return b""

    def newest(self, session_id: str, kernel_id: str) -> Path | None:
        """The log of the kernel's last attempt that ended here."""
        found = (self._directory / session_id).glob(f"{kernel_id}-*.log")
        return max(found, key=lambda path: int(path.stem.rpartition("-")[2]), default=None)

    def _path(self, session_id: str, kernel_id: str, attempt: int) -> Path:
        return self._directory / session_id / f"{kernel_id}-{attempt}.log"
