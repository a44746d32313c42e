"""The session with the shortest time limit starts first, on the node that keeps the most memory."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler.score import Candidates
from moorage.scheduler.snapshot import Policy, WaitingSession


class ShortestFirst:
    """An order is one function: the session with the smallest key is looked at first."""

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        return (session.time_limit_s if session.time_limit_s is not None else inf, session.submitted)


class MostMemory:
    """A selector is one function: the node with the lowest score in [-1, 1] is taken."""

    def score(self, candidates: Candidates) -> NDArray[np.float64]:
        column = list(candidates.slots).index("mem")
        return -np.clip(candidates.left[column] / candidates.scale[column], 0.0, 1.0)
