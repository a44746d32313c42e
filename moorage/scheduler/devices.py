"""Which devices of a node a kernel gets: whole ones, shares of one, or slices.

What fits by sum but on no device is found here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from moorage.scheduler.snapshot import DeviceState

_NO_NUMA = -1


class DeviceSet:
    """The healthy devices of one slot on one node, and what is free on each, sorted by id.

    `ledger` is what the node's capacity leaves of the slot; a choice may not go beyond it either.
    """

    __slots__ = ("free", "ids", "ledger", "numa", "total")

    def __init__(self, devices: Iterable[DeviceState], ledger: int) -> None:
        healthy = sorted((one for one in devices if one.healthy), key=lambda one: one.device_id)
        self.ids = [one.device_id for one in healthy]
        self.free = [max(0, one.total - one.used) for one in healthy]
        self.numa = [_NO_NUMA if one.numa is None else one.numa for one in healthy]
        self.total = max((one.total for one in healthy), default=1)
        self.ledger = ledger

    def copy(self) -> DeviceSet:
        twin = DeviceSet((), self.ledger)
        twin.ids, twin.free, twin.numa, twin.total = self.ids, list(self.free), self.numa, self.total
        return twin

    def level(self) -> int:
        """The largest amount that fits now: all wholly free devices and the best part of another.

        An amount fits exactly if it is at most this: whole devices first, its remainder on one device.
        """
        whole, part = 0, 0
        for free in self.free:
            if free >= self.total:
                whole += 1
            elif free > part:
                part = free
        return min(self.ledger, whole * self.total + part)

    def times(self, amount: int) -> int:
        """How many kernels that ask `amount` each fit one after the other."""
        if amount <= self.total:
            return min(self.ledger // amount, sum(free // amount for free in self.free))
        trial, count = self.copy(), 0
        while trial.level() >= amount:
            trial.take(trial.choose(amount, frozenset()))
            count += 1
        return count

    def choose(self, amount: int, near: frozenset[int]) -> dict[int, int]:
        """Device index → amount for a request that fits (`amount <= level()`), on few NUMA nodes, `near` ones first."""
        count, rest = divmod(amount, self.total)
        chosen = dict.fromkeys(self._whole(count, near), self.total) if count else {}
        if rest:
            close = frozenset(self.numa[index] for index in chosen) or near
            best = min(
                (index for index, free in enumerate(self.free) if free >= rest and index not in chosen),
                key=lambda index: (self.free[index], bool(close) and self.numa[index] not in close, index),
            )
            chosen[best] = rest
        return chosen

    def take(self, chosen: Mapping[int, int]) -> None:
        for index, amount in chosen.items():
            self.free[index] -= amount
            self.ledger -= amount

    def give_back(self, given: Mapping[str, int]) -> None:
        """Undoes a choice by device id; one that isn't here (unhealthy, gone) gives back to the ledger alone."""
        for device_id, amount in given.items():
            self.ledger += amount
            if device_id in self.ids:
                index = self.ids.index(device_id)
                self.free[index] = min(self.total, self.free[index] + amount)

    def _whole(self, count: int, near: frozenset[int]) -> list[int]:
        """Wholly free devices: of the NUMA node that has all with least left over, else of as few as possible."""
        by_numa: dict[int, list[int]] = {}
        for index, free in enumerate(self.free):
            if free >= self.total:
                by_numa.setdefault(self.numa[index], []).append(index)
        chosen: list[int] = []
        while len(chosen) < count:
            rest = count - len(chosen)
            enough = [
                (bool(near) and numa not in near, len(found), numa)
                for numa, found in by_numa.items()
                if len(found) >= rest
            ]
            numa = min(enough)[2] if enough else min((-len(found), numa) for numa, found in by_numa.items())[1]
            chosen += by_numa.pop(numa)[:rest]
        return chosen
