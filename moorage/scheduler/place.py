"""Where a kernel goes: the free room of all nodes as one array, and the selectors over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler.snapshot import NodeState

# Slots that decide a choice first; the rest follow by name. Scarce ones first keeps them whole.
_SLOT_ORDER = ("cuda.device", "cuda.shares", "cpu", "mem")


class Room:
    """Free amounts, nodes × slots. Nodes are sorted by id, so equal snapshots choose equally."""

    def __init__(self, nodes: Iterable[NodeState]) -> None:
        self._nodes = sorted((node for node in nodes if node.schedulable), key=lambda node: node.agent_id)
        names = {slot for node in self._nodes for slot in node.capacity}
        self.slots = sorted(names, key=lambda slot: (_rank(slot), slot))
        self._column = {slot: column for column, slot in enumerate(self.slots)}
        self.agent_ids: list[str] = [node.agent_id for node in self._nodes]
        self._row = {agent_id: row for row, agent_id in enumerate(self.agent_ids)}
        self.capacity = self._array([node.capacity for node in self._nodes])
        self.free = self.capacity - self._array([node.used for node in self._nodes])

    def vector(self, request: Mapping[str, int]) -> NDArray[np.int64] | None:
        """The request as a row; None if it names a slot that no node has."""
        if any(slot not in self._column and amount > 0 for slot, amount in request.items()):
            return None
        row = np.zeros(len(self.slots), dtype=np.int64)
        for slot, amount in request.items():
            if amount > 0:
                row[self._column[slot]] = amount
        return row

    def could_ever_hold(self, request: NDArray[np.int64]) -> bool:
        return bool((self.capacity >= request).all(axis=1).any())

    def concentrated(self, request: NDArray[np.int64], *, avoid: frozenset[str] = frozenset()) -> str | None:
        """The fullest node that has room: fewest kinds of slot that the request leaves unused, then least left over.

        Nodes in `avoid` are taken only when no other has room.
        """
        fitting = np.flatnonzero((self.free >= request).all(axis=1))
        preferred = np.array([row for row in fitting if self.agent_ids[row] not in avoid], dtype=np.int64)
        rows = preferred if avoid and preferred.size else fitting
        if rows.size == 0:
            return None
        unused = ((self.capacity[rows] > 0) & (request == 0)).sum(axis=1)
        left = self.free[rows] - request
        keys = [left[:, column] for column in reversed(range(len(self.slots))) if request[column] > 0]
        best = np.lexsort([*keys, unused])[0]
        return self.agent_ids[int(rows[best])]

    def take(self, agent_id: str, request: NDArray[np.int64]) -> None:
        self.free[self._row[agent_id]] -= request

    def give_back(self, agent_id: str, request: NDArray[np.int64]) -> None:
        self.free[self._row[agent_id]] += request

    def _array(self, rows: Sequence[Mapping[str, int]]) -> NDArray[np.int64]:
        return np.array([[row.get(slot, 0) for slot in self.slots] for row in rows], dtype=np.int64).reshape(
            len(rows), len(self.slots)
        )


def _rank(slot: str) -> int:
    return _SLOT_ORDER.index(slot) if slot in _SLOT_ORDER else len(_SLOT_ORDER)
