from __future__ import annotations

from pathlib import Path

from agent_worker.runtimes.kernel_log import killed_for_memory

ID = "8f56bdc5b39d25a8008d4edf7f46edb5aee4f62599b4dd593ea017be58fd8f06"
KILL = f"6,66115,9549818194,-;oom-kill:constraint=CONSTRAINT_MEMCG,oom_memcg=/docker/{ID},task=dd,pid=7\n"


def test_a_kill_for_memory_is_found_by_the_container(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(KILL)
    assert killed_for_memory(ID, log)
    assert not killed_for_memory("0" * 64, log)


def test_what_else_is_said_of_a_container_is_no_kill(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"6,1,1,-;memory: usage 16384kB, limit 16384kB in /docker/{ID}\n")
    assert not killed_for_memory(ID, log)


def test_without_a_log_nothing_is_known(tmp_path: Path) -> None:
    assert not killed_for_memory(ID, tmp_path / "none")
