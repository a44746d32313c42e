"""What a container's exit is called, in words for whoever has to mend it."""

from __future__ import annotations

import pytest

from moorage.domain.session import KernelExit, Reason, SessionResult, SessionStatus, ending_of

MIB = 1024**2


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (0, Reason.SELF_TERMINATED, "exit code 0"),
        (1, Reason.SELF_TERMINATED, "exit code 1"),
        (126, Reason.SELF_TERMINATED, "exit code 126: its command can't be executed"),
        (127, Reason.SELF_TERMINATED, "exit code 127: its command was not found"),
        (137, Reason.SIGNALLED, "killed (SIGKILL), not for memory: from outside, or by a process of its own"),
        (139, Reason.SIGNALLED, "ended by signal 11 (SIGSEGV)"),
        (143, Reason.SIGNALLED, "ended by signal 15 (SIGTERM)"),
        (161, Reason.SELF_TERMINATED, "exit code 161"),
        (255, Reason.SELF_TERMINATED, "exit code 255"),
    ],
)
def test_an_exit_code_says_what_it_means(code: int, reason: Reason, words: str) -> None:
    ending = ending_of(KernelExit("k", 0, code))
    assert (ending.reason, ending.message, ending.exit_code) == (reason, words, code)
    assert ending.status == SessionStatus.TERMINATED
    assert ending.result == (SessionResult.FAILURE if code else SessionResult.SUCCESS)


def test_a_kill_for_memory_names_the_limit() -> None:
    ending = ending_of(KernelExit("k", 0, 137, oom_killed=True), 256 * MIB)
    assert (ending.reason, ending.result) == (Reason.OOM_KILLED, SessionResult.FAILURE)
    assert ending.message == "killed for memory: it used 256 MiB, its limit, and needed more"
    assert ending_of(KernelExit("k", 0, 137, True)).message == "killed for memory: it needed more than its limit"


def test_a_child_that_was_killed_for_memory_is_told_apart_from_the_command() -> None:
    ending = ending_of(KernelExit("k", 0, 1, oom_killed=True), 32 * MIB)
    assert ending.reason == Reason.OOM_KILLED
    assert ending.message.startswith("exit code 1, after a process of it was killed for memory: it used 32 MiB")


def test_a_session_that_got_over_a_kill_for_memory_has_succeeded() -> None:
    ending = ending_of(KernelExit("k", 0, 0, oom_killed=True), 32 * MIB)
    assert (ending.reason, ending.result) == (Reason.SELF_TERMINATED, SessionResult.SUCCESS)
    assert ending.message.startswith("exit code 0; a process of it was killed for memory")


def test_what_vanished_is_an_error() -> None:
    assert ending_of(KernelExit("k", 0, None, gone=True)).status == SessionStatus.ERROR
