"""Docker's events of containers that ended: which of them are news, and how each container ended."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

# Docker itself remembers 256 events.
_REMEMBERED = 1024


class Heard:
    """Events that were passed on. An event is known by container and time, never by being late: clocks go back."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._known: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.since = int(now())  # what Docker is asked for after a break, in seconds since 1970

    def is_new(self, event: Mapping[str, Any]) -> bool:
        return _key(event) not in self._known

    def note(self, event: Mapping[str, Any]) -> None:
        self._known[_key(event)] = None
        self.since = int(event["timeNano"]) // 1_000_000_000
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def final_state(event: Mapping[str, Any], state: Mapping[str, Any] | None) -> dict[str, Any]:
    """How the container ended, by its event and by its state now: None if it is gone.

    One that somebody started again has a state of its new life, which says nothing of the end.
    """
    code = int(event["Actor"]["Attributes"].get("exitCode", 0))
    ended = state is not None and not state.get("Running") and int(state["ExitCode"]) == code
    return {"ExitCode": code, "OOMKilled": bool(state and ended and state.get("OOMKilled"))}


def _key(event: Mapping[str, Any]) -> tuple[str, int]:
    return str(event["id"]), int(event["timeNano"])
