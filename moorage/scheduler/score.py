"""Which of the nodes that have room is taken. A selector scores them; the lowest wins, the agent id breaks ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

# Slots that decide a choice first; the rest follow by name. Scarce ones first keeps them whole.
_SLOT_ORDER = ("cuda.device", "cuda.shares", "rocm.device", "tpu.device")
_PLAIN = ("cpu", "mem")

# Differences of a slot below this part of the largest node leave the choice to the next slot.
_RESOLUTION = 2.0**-12

# Added to a score, which lies in (-1.01, 1.01): each kind of slot that stays unused, and an image that must be pulled.
UNUSED_KIND = 8.0
MISSING_IMAGE = 4.0
FAILED_BEFORE = 1e6


def slot_rank(slot: str) -> tuple[int, str]:
    """Accelerators, then cpu, then mem, then the others by name."""
    if slot in _SLOT_ORDER:
        return _SLOT_ORDER.index(slot), slot
    if slot in _PLAIN:
        return 101 + _PLAIN.index(slot), slot
    return (100 if slot.startswith(("cuda.", "rocm.", "tpu.", "npu.")) else 200), slot


@dataclass(frozen=True, slots=True)
class Candidates:
    """Nodes to be scored. `left` is what the request would leave free, slots × nodes, `capacity` likewise.

    `scale` is about the largest capacity of each slot in the group, the same for all nodes.
    """

    slots: Sequence[str]
    request: Mapping[str, int]
    left: NDArray[np.int64]
    capacity: NDArray[np.int64]
    scale: Sequence[float]


@runtime_checkable
class Selector(Protocol):
    """A strategy. A score depends on the node's own column alone, because it is kept until that node changes."""

    def score(self, candidates: Candidates) -> NDArray[np.float64]:
        """One number in [-1, 1] for each node; lower is better."""
        ...


@dataclass(frozen=True, slots=True)
class ByRoomLeft:
    """Looks at what the request leaves free of the slots it asks, scarce slots first: `sign` 1 wants little, -1 much.

    `packs`: a gang goes on as few nodes as possible. `cyclic`: equals are taken in turn, from the cursor on.
    """

    sign: float
    packs: bool = False
    cyclic: bool = False

    def weights(self, asked: Sequence[int], scale: Sequence[float]) -> tuple[float, ...]:
        """One factor for each asked column; `scale` is the largest capacity of each column."""
        return tuple(self.sign * _RESOLUTION**place / scale[column] for place, column in enumerate(asked))

    def score(self, candidates: Candidates) -> NDArray[np.float64]:
        asked = [column for column, slot in enumerate(candidates.slots) if candidates.request.get(slot)]
        total = np.zeros(candidates.left.shape[1])
        for column, weight in zip(asked, self.weights(asked, candidates.scale), strict=True):
            total += candidates.left[column] * weight
        return total


concentrated = partial(ByRoomLeft, 1.0, packs=True)
dispersed = partial(ByRoomLeft, -1.0)
roundrobin = partial(ByRoomLeft, 0.0, cyclic=True)

SELECTORS: dict[str, Selector] = {
    "concentrated": concentrated(),
    "dispersed": dispersed(),
    "roundrobin": roundrobin(),
}
