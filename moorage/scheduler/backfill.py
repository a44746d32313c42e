"""When and where a session that doesn't fit can start, and what others may use until then.

EASY backfill: only the first session that finds no room gets a reservation, and those behind it may start if they don't
delay it. Source: Mu'alem & Feitelson, IEEE TPDS 12(6), 2001.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler.place import Room
from moorage.scheduler.shape import Need, Shape, Starts


@dataclass(frozen=True, slots=True)
class Release:
    """What a kernel gives back at `end` (-inf: any moment now; inf: nobody knows)."""

    end: float
    slots: Mapping[str, int]
    devices: Mapping[str, int]


Firsts = Callable[[], NDArray[np.float64]]  # by row, the end of the first of these (inf: there is none)
Releases = Callable[[int], Sequence[Release]]  # row → what is given back there, by end


class Trial:
    """One node as it would be after some releases. Changes nothing of the room."""

    __slots__ = ("_column", "_sets", "values")

    def __init__(self, room: Room, row: int) -> None:
        self._column = room.column
        self.values = list(room.rows[row])
        self._sets = {column: one.copy() for column, one in room.devices[row].items() if column in room.shared}

    def release(self, slots: Mapping[str, int], devices: Mapping[str, int]) -> None:
        for slot, amount in slots.items():
            column = self._column.get(slot)
            if column is None:
                continue
            found = self._sets.get(column)
            if found is None:
                self.values[column] += amount
            else:
                mine = {one: some for one, some in devices.items() if one in found.ids}
                found.give_back(mine)
                found.ledger += amount - sum(mine.values())
                self.values[column] = found.level()

    def take(self, need: Need) -> None:
        for column, amount in need:
            found = self._sets.get(column)
            if found is None:
                self.values[column] -= amount
            else:
                found.take(found.choose(amount, frozenset()))
                self.values[column] = found.level()

    def fits(self, need: Need) -> bool:
        return all(self.values[column] >= amount for column, amount in need)

    def times(self, need: Need) -> int:
        return min(
            (
                max(0, self.values[column]) // amount if column not in self._sets else self._sets[column].times(amount)
                for column, amount in need
            ),
            default=2**31,
        )


@dataclass(frozen=True, slots=True)
class Promise:
    """A start `at` (seconds since 1970; None: not known); row → what a node has to spare for sessions beyond it."""

    at: float | None
    spare: dict[int, dict[int, int]]


@dataclass(frozen=True, slots=True)
class Demand:
    """A request as a number of equal kernels; different ones count as the largest, so a promise isn't too early."""

    need: Need
    count: int
    base: NDArray[np.float64]

    @classmethod
    def of(cls, shape: Shape, room: Room) -> Demand:
        base = np.max([part.base for part in shape.parts], axis=0)
        if shape.one_node or shape.whole:
            need = tuple(sorted((room.column[slot], amount) for slot, amount in shape.total.items()))
            return cls(need, 1, base)
        largest: dict[int, int] = {}
        for part in shape.parts:
            for column, amount in part.need:
                largest[column] = max(amount, largest.get(column, 0))
        return cls(tuple(sorted(largest.items())), len(shape.part_of), base)

    def able(self, room: Room) -> NDArray[np.bool_]:
        """Nodes that could hold one such kernel if they were empty."""
        able = self.base < np.inf
        for column, amount in self.need:
            able &= room.capacity[column] >= amount
        return able

    def rows(self, room: Room) -> list[int]:
        return [int(row) for row in np.flatnonzero(self.able(room))]


def promise(room: Room, shape: Shape, releases: Releases, firsts: Firsts, now: float) -> Promise | None:
    """The earliest start that the ends of running sessions allow; None if they allow none."""
    demand = Demand.of(shape, room)
    if demand.count == 1:
        found = _one(room, shape, demand, releases, firsts, now)
    else:
        found = _several(room, demand, releases, now)
    if found is None:
        return None
    at, counts = found
    return Promise(at, {row: _spare(room, row, demand, count, releases, at) for row, count in counts.items()})


def nearest(room: Room, shape: Shape) -> Promise:
    """Nodes from which the least must be released, as many as are needed; all of their room is kept."""
    demand = Demand.of(shape, room)
    rows = np.array(demand.rows(room), dtype=np.int64)
    short = np.zeros(len(rows))
    times = np.full(len(rows), demand.count, dtype=np.int64)
    for column, amount in demand.need:
        short += np.maximum(0, amount - np.maximum(room.free[column, rows], 0)) / room.scale[column]
        times = np.minimum(times, room.capacity[column, rows] // amount)
    spare: dict[int, dict[int, int]] = {}
    missing = demand.count
    for index in np.argsort(short, kind="stable").tolist():
        if missing <= 0:
            break
        spare[int(rows[index])] = dict.fromkeys(range(len(room.slots)), 0)
        missing -= int(times[index])
    return Promise(None, spare)


def _one(
    room: Room, shape: Shape, demand: Demand, releases: Releases, firsts: Firsts, now: float
) -> tuple[float, dict[int, int]] | None:
    """The node that has room first.

    By node, the first release is the earliest guess; only while a guess is the earliest of all is it worked out. What
    was found is kept with the shape and renewed for changed nodes only.
    """
    starts = shape.starts
    able = demand.able(room)
    if starts is None:
        starts = shape.starts = Starts(np.where(able, firsts(), inf), np.zeros(len(room.nodes), dtype=bool))
        fitting = able.copy()
        for column, amount in demand.need:
            fitting &= room.free[column] >= amount
        starts.at[fitting] = -inf
    else:
        for row in set(room.log[starts.seen :]):
            if able[row]:
                first = releases(row)[:1]
                starts.at[row] = -inf if room.fits(row, demand.need) else first[0].end if first else inf
                starts.known[row] = False
    starts.seen = len(room.log)
    best = inf
    for row in np.argsort(starts.at, kind="stable").tolist():
        guess = float(starts.at[row])
        if guess == inf or guess > max(best, now):
            break
        if not starts.known[row]:
            starts.at[row] = guess = _first_fit(room, row, demand.need, releases(row))
            starts.known[row] = True
        best = min(best, guess)
    if best == inf:
        return None
    row = int(np.where(starts.known, np.maximum(starts.at, now), inf).argmin())
    return max(now, best), {row: 1}


def _first_fit(room: Room, row: int, need: Need, releases: Iterable[Release]) -> float:
    if any(column in room.shared for column, _ in need):
        trial = Trial(room, row)
        return next((end for end, count in _steps(trial, need, releases) if count), inf)
    values = room.rows[row]
    missing = {room.slots[column]: amount - values[column] for column, amount in need if amount > values[column]}
    if not missing:
        return -inf
    for release in releases:
        for slot, amount in list(missing.items()):
            rest = amount - release.slots.get(slot, 0)
            if rest > 0:
                missing[slot] = rest
            else:
                del missing[slot]
        if not missing:
            return release.end
    return inf


def _several(room: Room, demand: Demand, releases: Releases, now: float) -> tuple[float, dict[int, int]] | None:
    """For a gang: the moment when all nodes together have room for all kernels, packed on those with most."""
    events: list[tuple[float, int, int]] = []
    for row in demand.rows(room):
        before = 0
        for end, count in _steps(Trial(room, row), demand.need, releases(row)):
            events.append((max(now, end), row, min(count, demand.count) - before))
            before = min(count, demand.count)
    counts: dict[int, int] = {}
    at, total = now, 0
    for end, row, more in sorted(events):
        if total >= demand.count and end > at:
            break
        at, total = end, total + more
        counts[row] = counts.get(row, 0) + more
    if total < demand.count or at == inf:
        return None
    chosen: dict[int, int] = {}
    for row in sorted(counts, key=lambda one: (-counts[one], one)):
        missing = demand.count - sum(chosen.values())
        if missing <= 0:
            break
        if counts[row]:
            chosen[row] = min(missing, counts[row])
    return at, chosen


def _steps(trial: Trial, need: Need, releases: Iterable[Release]) -> Iterable[tuple[float, int]]:
    """(moment, how many kernels the node has room for from then on), each time that the number grows."""
    before = trial.times(need)
    if before:
        yield -inf, before
    for release in releases:
        if release.end == inf:
            return
        trial.release(release.slots, release.devices)
        count = trial.times(need)
        if count > before:
            yield release.end, count
            before = count


def _spare(room: Room, row: int, demand: Demand, count: int, releases: Releases, at: float) -> dict[int, int]:
    """What is left of the asked slots when the promise begins."""
    trial = Trial(room, row)
    for release in releases(row):
        if release.end <= at:
            trial.release(release.slots, release.devices)
    return {
        column: 0 if column in room.shared else max(0, trial.values[column] - amount * count)
        for column, amount in demand.need
    }
