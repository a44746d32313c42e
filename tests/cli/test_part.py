"""A supervised child, as a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from moorage.cli.up.part import Part
from moorage.cli.up.state import same_process
from moorage.domain.errors import Unavailable


def a_part(tmp_path: Path, program: str) -> Part:
    return Part("child", [sys.executable, "-c", program], log=tmp_path / "child.log", cwd=tmp_path, env={})


async def test_a_part_that_is_killed_is_started_again_and_said(tmp_path: Path) -> None:
    part, said, again = a_part(tmp_path, "import signal; signal.pause()"), list[str](), asyncio.Event()
    await part.start()
    first = part.state.pid
    keeper = asyncio.create_task(part.keep_alive(changed=again.set, say=said.append))
    os.kill(first, signal.SIGKILL)
    await asyncio.wait_for(again.wait(), 10)
    keeper.cancel()
    assert part.state.pid != first
    assert part.state.restarts == 1
    assert "child ended with -9" in said[0]
    await part.stop()


async def test_a_stopped_part_is_gone(tmp_path: Path) -> None:
    part = a_part(tmp_path, "import signal; signal.pause()")
    await part.start()
    await part.stop()
    assert not same_process(part.state.pid, part.state.born)


async def test_a_program_that_is_not_there_is_said_in_plain_words(tmp_path: Path) -> None:
    part = Part("ghost", [str(tmp_path / "none")], log=tmp_path / "g.log", cwd=tmp_path, env={})
    with pytest.raises(Unavailable, match="ghost can't be started"):
        await part.start()
