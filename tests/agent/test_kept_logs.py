from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_worker.kept_logs import KeptLogs


async def _chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def _kept(directory: Path, *chunks: bytes) -> bytes:
    logs = KeptLogs(directory, cap_bytes=20)
    await logs.keep("s", "k", 0, _chunks(*chunks))
    path = logs.newest("s", "k")
    assert path is not None
    return path.read_bytes()


async def test_a_log_within_the_cap_is_kept_whole(tmp_path: Path) -> None:
    assert await _kept(tmp_path, b"0123456789", b"abcdefghij") == b"0123456789abcdefghij"


async def test_of_a_longer_log_head_and_tail_are_kept_and_the_gap_is_told(tmp_path: Path) -> None:
    kept = await _kept(tmp_path, b"HEAD", b"-" * 500, b"......", b"TAIL")
    assert kept.startswith(b"HEAD------\n[")
    assert kept.endswith(b"]\n......TAIL")
    assert b"494 bytes left out" in kept


async def test_one_large_chunk_is_cut_in_the_middle(tmp_path: Path) -> None:
    kept = await _kept(tmp_path, b"a" * 10 + b"x" * 1000 + b"z" * 10)
    assert kept == b"a" * 10 + "\n[… 1000 bytes left out …]\n".encode() + b"z" * 10


async def test_the_newest_attempt_is_found(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, cap_bytes=100)
    for attempt in (9, 10, 2):
        await logs.keep("s", "k", attempt, _chunks(str(attempt).encode()))
    newest = logs.newest("s", "k")
    assert newest is not None
    assert newest.read_bytes() == b"10"


def test_a_kernel_that_never_ran_here_has_no_log(tmp_path: Path) -> None:
    assert KeptLogs(tmp_path, cap_bytes=100).newest("s", "k") is None


async def test_on_a_full_disk_nothing_of_a_log_is_left(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "k-0.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        await KeptLogs(tmp_path, cap_bytes=100).keep("s", "k", 0, _chunks(b"words"))
    assert list((tmp_path / "s").iterdir()) == []


STAMPED = b"".join(f"2026-01-31T12:00:0{second}.000000000Z line {second}\n".encode() for second in range(10))


async def _read(logs: KeptLogs, **wanted: Any) -> bytes:
    kept = logs.find("s", "k", 3)
    assert kept is not None
    return b"".join([piece async for piece in kept.read(**wanted)])


async def test_lines_are_kept_with_their_times_and_read_from_one_on(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, cap_bytes=10_000)
    await logs.keep("s", "k", 3, _chunks(STAMPED), stamped=True)
    assert await _read(logs, stamps=True) == STAMPED
    assert await _read(logs, tail=2) == b"line 8\nline 9\n"
    assert await _read(logs, since="2026-01-31T12:00:08.500000000Z") == b"line 9\n"
    assert await _read(logs, since="2026-01-31T12:00:05.000000000Z", tail=1) == b"line 9\n"
    assert await _read(logs, since="2026-02-01T00:00:00.000000000Z") == b""
    assert logs.find("s", "k", 2) is None


async def test_half_of_a_stamp_is_never_shown_as_something_that_was_written(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, cap_bytes=200)
    await logs.keep("s", "k", 3, _chunks(STAMPED), stamped=True)
    lines = (await _read(logs)).decode().splitlines()
    assert lines[0] == "line 0"
    assert lines[-2:] == ["line 8", "line 9"]
    assert [line for line in lines if not line.startswith(("line", "[…", "2026-01-31"))] in ([], [""])


async def test_old_logs_are_forgotten_and_a_session_without_any_leaves_no_folder(tmp_path: Path) -> None:
    logs = KeptLogs(tmp_path, cap_bytes=100)
    for session, kernel in (("old", "k1"), ("both", "k1"), ("both", "k2")):
        await logs.keep(session, kernel, 0, _chunks(b"words"))
    for path in (tmp_path / "old" / "k1-0.log", tmp_path / "both" / "k1-0.log"):
        os.utime(path, (1000, 1000))
    logs.forget(older_than=2000)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == ["both", "both/k2-0.log"]
