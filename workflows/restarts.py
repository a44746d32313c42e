"""Whether a container that has ended by itself is started again, and when."""

from __future__ import annotations

from dataclasses import dataclass

from moorage.domain.session import Ending, Reason, RestartPolicy, SessionResult, SessionStatus
from workflows import options

# Ends of a container's own making: its restart policy decides whether that is the session's end.
_FALLS = frozenset(
    {Reason.SELF_TERMINATED, Reason.OOM_KILLED, Reason.SIGNALLED, Reason.UNHEALTHY, Reason.FAILED_TO_CREATE}
)


@dataclass(frozen=True, slots=True)
class NextStart:
    wait_s: float
    words: str


class Restarts:
    """Those of a row: falls that follow each other, each after less than STEADY_S."""

    def __init__(self, policy: str, most: int, *, so_far: int = 0) -> None:
        self._policy = policy
        self._most = most
        self.in_a_row = so_far

    def follow(self, ending: Ending) -> bool:
        """Whether the policy makes this end another start."""
        if ending.reason not in _FALLS:
            return False
        if self._policy == RestartPolicy.ON_FAILURE:
            return ending.result == SessionResult.FAILURE
        return self._policy == RestartPolicy.ALWAYS

    def next(self, fall: Ending, *, ran_s: float) -> NextStart | Ending:
        """After a while that grows with each fall of a row. The end of a row is the session's."""
        if ran_s >= options.STEADY_S:
            self.begin_anew()
        if self.in_a_row >= self._most:
            times = "once" if self.in_a_row == 1 else f"{self.in_a_row} times"
            words = f"{fall.message}; it was started again {times}, and not once more"
            return Ending(
                SessionStatus.ERROR, Reason.CRASH_LOOP, words, SessionResult.FAILURE, exit_code=fall.exit_code
            )
        wait_s = min(2.0**self.in_a_row, options.LONGEST_BACK_OFF_S)
        self.in_a_row += 1
        return NextStart(wait_s, f"{fall.message}; restart {self.in_a_row} of {self._most} in {wait_s:g} s")

    def begin_anew(self) -> None:
        self.in_a_row = 0
