"""Which running sessions make way for one that waits: those of lower job priority, and of them the least."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

from moorage.scheduler.backfill import Trial
from moorage.scheduler.place import Room
from moorage.scheduler.shape import Need, Shape
from moorage.scheduler.snapshot import Policy, RunningKernel, RunningSession, WaitingSession

Held = tuple[RunningSession, RunningKernel]


@dataclass(frozen=True, slots=True)
class Eviction:
    """Sessions to stop, and the row where each kernel will have room then."""

    victims: tuple[str, ...]
    rows: tuple[int, ...]


def evict(
    room: Room,
    shape: Shape,
    session: WaitingSession,
    held_on: Callable[[int], Iterable[Held]],
    policy: Policy,
    now: float,
) -> Eviction | None:
    """The cheapest way to make room, kernel by kernel, by the part of a node that is freed; None if there is no way."""
    search = _Search(room, lambda one: may_evict(one, session, policy, now), held_on)
    needs = [_need_of(room, shape)] if shape.one_node else [shape.parts[index].need for index in shape.part_of]
    bases = [shape.parts[0].base] if shape.one_node else [shape.parts[index].base for index in shape.part_of]
    rows: dict[int, int] = {}
    largest_first = sorted(range(len(needs)), key=lambda index: tuple((c, -a) for c, a in needs[index]))
    heap: list[tuple[float, int]] = []
    before: Need | None = None
    for index in largest_first:
        if needs[index] != before:
            before = needs[index]
            able = [row for row in range(len(room.nodes)) if bases[index][row] < float("inf")]
            heap = [(cost, row) for row in able if (cost := search.cost(row, before)) is not None]
            heapify(heap)
        if not heap:
            return None
        row = rows[index] = heap[0][1]
        search.take(row, needs[index])
        cost = search.cost(row, needs[index])
        if cost is None:
            heappop(heap)
        else:
            heapreplace(heap, (cost, row))
    if not search.victims:
        return None
    ordered = tuple(rows[index] for index in range(len(needs)))
    return Eviction(tuple(sorted(search.victims)), ordered * len(session.kernels) if shape.one_node else ordered)


def may_evict(running: RunningSession, session: WaitingSession, policy: Policy, now: float) -> bool:
    return (
        running.preemptible
        and not running.leaving
        and running.job_priority < session.job_priority
        and now - running.since >= policy.preemption_min_run_s
    )


class _Search:
    """What was decided so far: victims, and the nodes as they will be without them."""

    def __init__(
        self, room: Room, may: Callable[[RunningSession], bool], held_on: Callable[[int], Iterable[Held]]
    ) -> None:
        self._room = room
        self._may = may
        self._held_on = held_on
        self._taken: dict[int, list[Need]] = {}
        self.victims: dict[str, RunningSession] = {}

    def cost(self, row: int, need: Need) -> float | None:
        """Parts of a node that must be freed for one more kernel here; 0 if there is room, None if it can't be made."""
        chosen = self._choose(row, need)
        return None if chosen is None else sum(self._size(one) for one in chosen)

    def take(self, row: int, need: Need) -> None:
        for one in self._choose(row, need) or ():
            self.victims[one.session_id] = one
        self._taken.setdefault(row, []).append(need)

    def _choose(self, row: int, need: Need) -> list[RunningSession] | None:
        if any(self._room.capacity[column, row] < amount for column, amount in need):
            return None
        here = self._here(row)
        if self._room_without(row, {}, here).fits(need):
            return []
        able = [s for s, _ in here.values() if s.session_id not in self.victims and self._may(s)]
        gentle = sorted(able, key=lambda one: (one.job_priority, -one.since, one.session_id))
        ways = [self._grow(row, need, gentle, here)]
        if ways[0] is None:
            return None
        if len(able) > 1:
            ways.append(self._grow(row, need, sorted(gentle, key=self._size), here))
        return min((way for way in ways if way is not None), key=lambda way: sum(self._size(one) for one in way))

    def _here(self, row: int) -> dict[str, tuple[RunningSession, list[RunningKernel]]]:
        found: dict[str, tuple[RunningSession, list[RunningKernel]]] = {}
        for session, kernel in self._held_on(row):
            found.setdefault(session.session_id, (session, []))[1].append(kernel)
        return found

    def _grow(
        self,
        row: int,
        need: Need,
        candidates: list[RunningSession],
        here: Mapping[str, tuple[RunningSession, list[RunningKernel]]],
    ) -> list[RunningSession] | None:
        """One after the other until there is room; then whoever isn't needed after all stays, the later ones first."""
        chosen: dict[str, RunningSession] = {}
        trial = self._room_without(row, chosen, here)
        for one in candidates:
            chosen[one.session_id] = one
            for kernel in here[one.session_id][1]:
                trial.release(kernel.slots, kernel.devices)
            if trial.fits(need):
                break
        else:
            return None
        for one in list(chosen.values())[-2::-1]:
            fewer = {key: other for key, other in chosen.items() if key != one.session_id}
            if self._room_without(row, fewer, here).fits(need):
                chosen = fewer
        return list(chosen.values())

    def _room_without(
        self,
        row: int,
        gone: Mapping[str, RunningSession],
        here: Mapping[str, tuple[RunningSession, list[RunningKernel]]],
    ) -> Trial:
        """The node as it will be without those and the victims so far, with what was placed on it already."""
        trial = Trial(self._room, row)
        for session_id, (_, kernels) in here.items():
            if session_id in gone or session_id in self.victims:
                for kernel in kernels:
                    trial.release(kernel.slots, kernel.devices)
        for need in self._taken.get(row, ()):
            if trial.fits(need):
                trial.take(need)
        return trial

    def _size(self, session: RunningSession) -> float:
        """All that the session holds, each slot as part of the largest node's."""
        total = 0.0
        for kernel in session.kernels:
            for slot, amount in kernel.slots.items():
                column = self._room.column.get(slot)
                total += amount / self._room.scale[column] if column is not None else 0.0
        return total


def _need_of(room: Room, shape: Shape) -> Need:
    return tuple(sorted((room.column[slot], amount) for slot, amount in shape.total.items()))
