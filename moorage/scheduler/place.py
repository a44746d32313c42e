"""The free room of all nodes, and where a request goes. Rows are nodes sorted by id, so equal snapshots choose equally.

Room is kept twice: as arrays (slots × nodes) to score many nodes at once, and as plain lists for the one node that
changed. Each request is interned as a `Shape`; its parts keep a score per node and renew it only for changed nodes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler.devices import DeviceSet
from moorage.scheduler.score import (
    FAILED_BEFORE,
    MISSING_IMAGE,
    UNUSED_KIND,
    ByRoomLeft,
    Candidates,
    Selector,
    slot_rank,
)
from moorage.scheduler.shape import Need, Part, Seat, Shape
from moorage.scheduler.snapshot import ClusterMode, DeviceState, NodeState, WaitingSession

ShapeKey = tuple[tuple[tuple[tuple[str, int], ...], ...], ClusterMode, str, str, frozenset[str]]

# Up to so many changed nodes are scored one by one; above, as arrays.
_FEW = 12
# Scores of requests that found no room are kept for the next pass only while there are few of them.
_KEPT_SCORES = 1000
_LONGEST_LOG = 200_000
_NOWHERE = -1


@dataclass(slots=True)
class Kept:
    """A node of which some room is kept: `holds` for sessions by id, `spare` what a reservation leaves to long ones."""

    real: list[int]
    holds: dict[str, list[Need]] = field(default_factory=dict)
    spare: dict[int, int] | None = None


class Room:
    """What is free where. Nothing here is told outside of the scheduler; amounts are in base units."""

    def __init__(self, nodes: Iterable[NodeState], selector: Selector) -> None:
        self.selector = selector
        self.nodes = sorted((node for node in nodes if node.schedulable), key=lambda node: node.agent_id)
        self.slots = sorted({slot for node in self.nodes for slot in node.capacity}, key=slot_rank)
        self.column = {slot: column for column, slot in enumerate(self.slots)}
        self.agent_ids = [node.agent_id for node in self.nodes]
        self.row_of = {agent_id: row for row, agent_id in enumerate(self.agent_ids)}
        self.capacity = self._columns([node.capacity for node in self.nodes])
        self.free = self.capacity - self._columns([node.used for node in self.nodes])
        self.devices: list[dict[int, DeviceSet]] = [{}] * len(self.nodes)
        self.shared: dict[int, int] = {}  # column → parts of one device
        for row, node in enumerate(self.nodes):
            if node.devices:
                self._read_devices(row, node)
        self.offered = self.capacity.sum(axis=1)
        self.counted = [column for column, whole in enumerate(self.offered) if whole > 0]
        self.despaired = 0  # how often a shape found no room
        self.scale = [2.0 ** int(most - 1).bit_length() if most > 0 else 1.0 for most in self._most(self.capacity)]
        self.rows: list[list[int]] = self.free.T.tolist()
        self.log: list[int] = []
        self.kept: dict[int, Kept] = {}
        self.cursor = ""
        self.shapes: list[Shape] = []
        self._interned: dict[ShapeKey, Shape] = {}
        self._bases: dict[tuple[tuple[int, ...], str, str, frozenset[str]], NDArray[np.float64]] = {}
        self._parts: dict[tuple[tuple[tuple[str, int], ...], str, str, frozenset[str]], Part] = {}
        self._constraints: dict[tuple[str, frozenset[str]], int] = {}
        self._architectures = [node.architecture for node in self.nodes]
        self._lows = np.zeros((0, len(self.slots)), dtype=np.int64)
        self._linear = selector if isinstance(selector, ByRoomLeft) else None

    # Shapes.

    def shape(self, session: WaitingSession) -> Shape:
        kernels = session.kernels
        key = (
            (tuple(kernels[0].slots.items()),)
            if len(kernels) == 1
            else tuple([tuple(kernel.slots.items()) for kernel in kernels]),
            session.cluster_mode,
            session.image,
            session.architecture,
            session.designated,
        )
        found = self._interned.get(key)
        if found is None:
            found = self._interned[key] = self._new_shape(session)
        return found

    def _new_shape(self, session: WaitingSession) -> Shape:
        requests = [{slot: amount for slot, amount in kernel.slots.items() if amount > 0} for kernel in session.kernels]
        total: dict[str, int] = {}
        for request in requests:
            for slot, amount in request.items():
                total[slot] = total.get(slot, 0) + amount
        one_node = len(requests) > 1 and session.cluster_mode is ClusterMode.SINGLE_NODE
        shares = any(self.column.get(slot) in self.shared for slot in total)
        whole = len(requests) == 1 or (one_node and not shares)
        parts: list[Part] = []
        part_of: list[int] = []
        for request in [total] if whole else requests:
            part = self._part(request, session)
            if part not in parts:
                parts.append(part)
            part_of.append(parts.index(part))
        shape = Shape(len(self.shapes), parts, part_of, whole=whole, one_node=one_node)
        shape.total = total
        place_of = {column: place for place, column in enumerate(self.counted)}
        places = [(place_of.get(self.column.get(slot, -1), -1), amount) for slot, amount in total.items()]
        shape.counted = tuple((place, amount) for place, amount in places if place >= 0)
        constraint = (session.architecture, session.designated)
        shape.constraint = self._constraints.setdefault(constraint, len(self._constraints))
        shape.low = np.min([self._vector(part.need) for part in parts], axis=0)
        shape.possible = all(slot in self.column for slot in total) and self._could_hold(shape)
        self.shapes.append(shape)
        return shape

    def _part(self, request: dict[str, int], session: WaitingSession) -> Part:
        need = tuple(sorted((self.column[slot], amount) for slot, amount in request.items() if slot in self.column))
        key = (tuple(sorted(request.items())), session.image, session.architecture, session.designated)
        part = self._parts.get(key)
        if part is None:
            asked = tuple(column for column, _ in need)
            base = self._base(asked, session.image, session.architecture, session.designated)
            weights = self._linear.weights(asked, self.scale) if self._linear else ()
            part = self._parts[key] = Part(need, base, weights, request)
        return part

    def _base(
        self, asked: tuple[int, ...], image: str, architecture: str, designated: frozenset[str]
    ) -> NDArray[np.float64]:
        """Kinds of slot that stay unused and whether the image is there; inf where the session may not go."""
        key = (asked, image, architecture, designated)
        known = self._bases.get(key)
        if known is not None:
            return known
        others = [column for column in range(len(self.slots)) if column not in asked]
        base: NDArray[np.float64] = (self.capacity[others] > 0).sum(axis=0) * UNUSED_KIND
        if image:
            base += np.array([image not in node.images for node in self.nodes], dtype=np.float64) * MISSING_IMAGE
        if architecture:
            base[np.array([one != architecture for one in self._architectures], dtype=bool)] = np.inf
        if designated:
            base[np.array([one not in designated for one in self.agent_ids], dtype=bool)] = np.inf
        self._bases[key] = base
        return base

    def _could_hold(self, shape: Shape) -> bool:
        """Whether the empty group could hold it."""
        if len(shape.parts) == 1 and (shape.whole or not shape.one_node):
            count = len(shape.part_of)
            return int(np.minimum(self.times(shape.parts[0], self.capacity), count).sum()) >= count
        parts = [Part(part.need, part.base, part.weights, part.asked) for part in shape.parts]
        twin = Shape(_NOWHERE, parts, shape.part_of, whole=shape.whole, one_node=shape.one_node)
        return self.empty().plan(twin, frozenset()) is not None

    def empty(self) -> Room:
        """The same nodes with nothing on them."""
        return Room(
            [
                NodeState(
                    node.agent_id,
                    node.capacity,
                    {},
                    architecture=node.architecture,
                    images=node.images,
                    devices=tuple(_unused(one) for one in node.devices),
                )
                for node in self.nodes
            ],
            self.selector,
        )

    # Choosing.

    def plan(self, shape: Shape, avoid: frozenset[str]) -> list[Seat] | None:
        """Takes room for all kernels of a request, or for none."""
        if shape.whole:
            return self._plan_whole(shape, avoid)
        if shape.one_node:
            return self._plan_one_node(shape, avoid)
        return self._plan_gang(shape, avoid)

    def choose(self, part: Part, avoid: frozenset[str]) -> int:
        """The row of the best node that has room, or -1."""
        self._renew(part)
        score = part.score
        if score.size == 0:
            return _NOWHERE
        if avoid:
            score = score.copy()
            score[[self.row_of[one] for one in avoid if one in self.row_of]] += FAILED_BEFORE
        row = int(score.argmin())
        least = score[row]
        if least == np.inf:
            return _NOWHERE
        if self._linear is not None and self._linear.cyclic:
            equals = np.flatnonzero(score == least)
            following = int(np.searchsorted(equals, bisect_right(self.agent_ids, self.cursor)))
            row = int(equals[following % len(equals)])
            self.cursor = self.agent_ids[row]
        return row

    def has_room(self, part: Part) -> bool:
        self._renew(part)
        return bool(part.score.min(initial=np.inf) < np.inf)

    def _plan_whole(self, shape: Shape, avoid: frozenset[str]) -> list[Seat] | None:
        part = shape.parts[0]
        row = self.choose(part, avoid)
        if row < 0:
            return None
        return [self.take(row, part.need)]

    def _plan_one_node(self, shape: Shape, avoid: frozenset[str]) -> list[Seat] | None:
        """Kernels that ask shares of devices: the nodes are tried one after the other, best first."""
        for part in shape.parts:
            self._renew(part)
        score = np.max([part.score for part in shape.parts], axis=0)
        for agent_id in avoid:
            if agent_id in self.row_of:
                score[self.row_of[agent_id]] += FAILED_BEFORE
        for row in np.argsort(score, kind="stable").tolist():
            if score[row] == np.inf:
                return None
            seats = self._take_all(row, [shape.parts[index].need for index in shape.part_of])
            if seats is not None:
                return seats
        return None

    def _plan_gang(self, shape: Shape, avoid: frozenset[str]) -> list[Seat] | None:
        counts = [shape.part_of.count(index) for index in range(len(shape.parts))]
        largest_first = sorted(range(len(counts)), key=lambda index: tuple((c, -a) for c, a in shape.parts[index].need))
        seats: dict[int, list[Seat]] = {}
        cursor = self.cursor
        for index in largest_first:
            seats[index] = self._spread(shape.parts[index], counts[index], avoid)
            if len(seats[index]) < counts[index]:
                for seat in [one for some in seats.values() for one in some]:
                    self.give_back(seat)
                self.cursor = cursor
                return None
        queues = {index: iter(some) for index, some in seats.items()}
        return [next(queues[index]) for index in shape.part_of]

    def _spread(self, part: Part, count: int, avoid: frozenset[str]) -> list[Seat]:
        """Up to `count` equal kernels; fewer mean that there is no room for all."""
        if self._linear is not None and self._linear.packs:
            return self._pack(part, count, avoid)
        seats: list[Seat] = []
        while len(seats) < count and (row := self.choose(part, avoid)) >= 0:
            seats.append(self.take(row, part.need))
        return seats

    def _pack(self, part: Part, count: int, avoid: frozenset[str]) -> list[Seat]:
        """On as few nodes as possible, of the best kind that has room for all."""
        self._renew(part)
        times = np.where(part.score < np.inf, self.times(part, self.free), 0)
        if int(np.minimum(times, count).sum()) < count:
            return []
        kind = part.base.copy()
        for agent_id in avoid:
            if agent_id in self.row_of:
                kind[self.row_of[agent_id]] += FAILED_BEFORE
        for limit in np.unique(kind[times > 0]).tolist():
            if int(np.minimum(times[kind <= limit], count).sum()) >= count:
                times[kind > limit] = 0
                break
        score = part.score.copy()
        seats: list[Seat] = []
        while len(seats) < count:
            rest = count - len(seats)
            enough = times >= rest
            best = enough if enough.any() else times == times.max()
            row = int(np.where(best, score, np.inf).argmin())
            seats += [self.take(row, part.need) for _ in range(min(rest, int(times[row])))]
            times[row] = 0
        return seats

    def times(self, part: Part, free: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many such kernels each node has room for, by `free` (slots × nodes); shares by the devices' own room."""
        count = np.where(part.base < np.inf, np.int64(2**31), np.int64(0))
        for column, amount in part.need:
            if column in self.shared:
                count = np.minimum(count, self._times_shares(column, amount, free))
            else:
                count = np.minimum(count, np.maximum(free[column], 0) // amount)
        return count

    def _times_shares(self, column: int, amount: int, free: NDArray[np.int64]) -> NDArray[np.int64]:
        if free is not self.free:
            total = self.shared[column]
            each = total // amount if amount <= total else 1
            most: NDArray[np.int64] = free[column] // max(total, amount) * each
            return most
        count = np.zeros(len(self.nodes), dtype=np.int64)
        for row in np.flatnonzero(free[column] >= amount).tolist():
            found = self.devices[row].get(column)
            count[row] = 1 if found is None or row in self.kept else found.times(amount)
        return count

    # Taking and giving back.

    def take(self, row: int, need: Need, *, short: bool = False) -> Seat:
        """Room that `need` was found to fit in. `short`: it ends before a reservation begins, so costs it nothing."""
        kept = self.kept.get(row)
        values = self.rows[row] if kept is None else kept.real
        given = self._take_devices(row, need, values) if self.devices[row] else {}
        for column, amount in need:
            if column not in self.shared or column not in self.devices[row]:
                values[column] -= amount
        if kept is not None:
            if kept.spare is not None and not short:
                for column, amount in need:
                    if column in kept.spare:
                        kept.spare[column] -= amount
            self._show_kept(row, kept)
        else:
            for column, _ in need:
                self.free[column, row] = values[column]
        self.log.append(row)
        return Seat(row, need, given)

    def give_back(self, seat: Seat, *, short: bool = False) -> None:
        kept = self.kept.get(seat.row)
        values = self.rows[seat.row] if kept is None else kept.real
        for column, amount in seat.need:
            found = self.devices[seat.row].get(column)
            if found is not None:
                found.give_back({one: some for one, some in seat.devices.items() if one in found.ids})
            if found is not None and column in self.shared:
                values[column] = found.level()
            else:
                values[column] += amount
        if kept is not None:
            if kept.spare is not None and not short:
                for column, amount in seat.need:
                    if column in kept.spare:
                        kept.spare[column] += amount
            self._show_kept(seat.row, kept)
        else:
            for column, _ in seat.need:
                self.free[column, seat.row] = values[column]
        self.log.append(seat.row)

    def _take_devices(self, row: int, need: Need, values: list[int]) -> dict[str, int]:
        given: dict[str, int] = {}
        near: frozenset[int] = frozenset()
        for column, amount in need:
            found = self.devices[row].get(column)
            if found is None:
                continue
            chosen = found.choose(amount, near)
            found.take(chosen)
            near = near or frozenset(found.numa[index] for index in chosen)
            for index, some in chosen.items():
                given[found.ids[index]] = some
            if column in self.shared:
                values[column] = found.level()
        return given

    def _take_all(self, row: int, needs: Sequence[Need]) -> list[Seat] | None:
        """Several kernels on one node, the largest first; all or none."""
        seats: dict[int, Seat] = {}
        for index in sorted(range(len(needs)), key=lambda one: tuple((c, -a) for c, a in needs[one])):
            if not self.fits(row, needs[index]):
                for seat in seats.values():
                    self.give_back(seat)
                return None
            seats[index] = self.take(row, needs[index])
        return [seats[index] for index in range(len(needs))]

    def fits(self, row: int, need: Need) -> bool:
        values = self.rows[row]
        return all(values[column] >= amount for column, amount in need)

    def fits_really(self, row: int, need: Need) -> bool:
        """Whether a session that ends before the reservation may go here; what is held for others stays theirs."""
        kept = self.kept[row]
        values = self._less_holds(kept)
        return all(values[column] >= amount for column, amount in need)

    # Keeping room.

    def keep(self, row: int) -> Kept:
        kept = self.kept.get(row)
        if kept is None:
            kept = self.kept[row] = Kept(self.rows[row])
        return kept

    def show(self, row: int) -> None:
        """Call after a change of what is kept."""
        self._show_kept(row, self.kept[row])
        self.log.append(row)

    def release(self, row: int) -> None:
        """Nothing is kept here any more."""
        kept = self.kept.pop(row)
        self.rows[row] = kept.real
        self.free[:, row] = kept.real
        self.log.append(row)

    def _show_kept(self, row: int, kept: Kept) -> None:
        values = self._less_holds(kept)
        for column, most in (kept.spare or {}).items():
            values[column] = max(0, min(values[column], most))
        self.rows[row] = values
        self.free[:, row] = values

    def _less_holds(self, kept: Kept) -> list[int]:
        values = list(kept.real)
        for needs in kept.holds.values():
            for need in needs:
                for column, amount in need:
                    # Which device a share will be on is not known yet, so none is given to others.
                    values[column] = 0 if column in self.shared else max(0, values[column] - amount)
        return values

    # What changed.

    def update(self, node: NodeState) -> bool:
        """Takes a node's new use, devices or images in; false if more changed and all must be read anew."""
        row = self.row_of.get(node.agent_id)
        if row is None:
            return not node.schedulable
        old = self.nodes[row]
        if not node.schedulable or old.architecture != node.architecture or dict(old.capacity) != dict(node.capacity):
            return False
        if not old.devices and not node.devices:
            capacity = self.capacity[:, row]
        elif len(old.devices) == len(node.devices) and all(
            _same(a, b) for a, b in zip(old.devices, node.devices, strict=True)
        ):
            capacity = self._column_of(node.capacity)
        else:
            return False
        self.nodes[row] = node
        self.free[:, row] = capacity - self._column_of(node.used)
        if node.devices:
            self._read_devices(row, node)
        if old.images != node.images:
            for (_, image, _, _), base in self._bases.items():
                if image:
                    base[row] += MISSING_IMAGE * (int(image in old.images) - int(image in node.images))
        self.rows[row] = self.free[:, row].tolist()
        self.log.append(row)
        return True

    def revive(self, start: int) -> None:
        """Shapes that found no room may find some on the nodes that changed since the log stood at `start`."""
        hopeless = [shape for shape in self.shapes if shape.hopeless]
        rows = list(set(self.log[start:]))
        if not hopeless or not rows:
            return
        lows = np.array([shape.low for shape in hopeless])
        free = self.free[:, rows]
        alive = np.ones((len(hopeless), len(rows)), dtype=bool)
        for column in range(len(self.slots)):
            asked = lows[:, column]
            alive &= (free[column][None, :] >= asked[:, None]) | (asked == 0)[:, None]
        for index in np.flatnonzero(alive.any(axis=1)).tolist():
            hopeless[index].hopeless = False

    def despair(self, shape: Shape) -> None:
        """Marks a shape that found no room, and with it all that ask at least as much under the same constraints."""
        shape.hopeless = True
        self.despaired += 1
        if len(self.shapes) > _KEPT_SCORES:
            for part in shape.parts:
                part.score, part.seen = np.zeros(0), -1
        if not shape.whole:
            return
        if len(self._lows) != len(self.shapes):
            self._lows = np.array([one.low for one in self.shapes])
        for index in np.flatnonzero((self._lows >= shape.low).all(axis=1)).tolist():
            if self.shapes[index].constraint == shape.constraint:
                self.shapes[index].hopeless = True

    def trim(self) -> bool:
        """Forgets the log between passes once it is long; what depends on it is then made anew when it is needed."""
        if len(self.log) <= _LONGEST_LOG + 4 * len(self.nodes):
            return False
        self.log.clear()
        for part in self._parts.values():
            part.seen = -1
        for shape in self.shapes:
            shape.starts = None
            shape.hopeless = False
        return True

    def most_free(self, slot: str) -> int:
        return int(self.free[self.column[slot]].max())

    # Below: arrays and scores.

    def _renew(self, part: Part) -> None:
        log = self.log
        if part.seen == len(log):
            return
        changed = None if part.seen < 0 else set(log[part.seen :])
        part.seen = len(log)
        if changed is None or len(changed) * 4 > len(self.nodes) + 4 * _FEW:
            part.score = self._scores(part, None)
        elif len(changed) > _FEW or self._linear is None:
            rows = np.fromiter(changed, dtype=np.int64, count=len(changed))
            part.score[rows] = self._scores(part, rows)
        else:
            for row in changed:
                self._score_one(part, row)

    def _scores(self, part: Part, rows: NDArray[np.int64] | None) -> NDArray[np.float64]:
        free = self.free if rows is None else self.free[:, rows]
        score = part.base.copy() if rows is None else part.base[rows]
        short = np.zeros(score.shape, dtype=bool)
        lefts = [free[column] - amount for column, amount in part.need]
        for left in lefts:
            short |= left < 0
        if self._linear is not None:
            worth = np.zeros(score.shape)
            for left, weight in zip(lefts, part.weights, strict=True):
                worth += left * weight
            score += worth
        else:
            left = free.copy()
            for (column, _), one in zip(part.need, lefts, strict=True):
                left[column] = one
            capacity = self.capacity if rows is None else self.capacity[:, rows]
            score += self.selector.score(Candidates(self.slots, part.asked, left, capacity, self.scale))
        score[short] = np.inf
        return score

    def _score_one(self, part: Part, row: int) -> None:
        """The same sum as `_scores`, in the same order, so that it is the same number."""
        values = self.rows[row]
        worth = 0.0
        for (column, amount), weight in zip(part.need, part.weights, strict=True):
            left = values[column] - amount
            if left < 0:
                part.score[row] = np.inf
                return
            worth += left * weight
        part.score[row] = part.base[row] + worth

    def _vector(self, need: Need) -> NDArray[np.int64]:
        vector = np.zeros(len(self.slots), dtype=np.int64)
        for column, amount in need:
            vector[column] = amount
        return vector

    def _read_devices(self, row: int, node: NodeState) -> None:
        by_slot: dict[str, list[DeviceState]] = {}
        for device in node.devices:
            by_slot.setdefault(device.slot, []).append(device)
        found: dict[int, DeviceSet] = {}
        for slot, devices in by_slot.items():
            column = self.column.get(slot)
            if column is None:
                continue
            one = found[column] = DeviceSet(devices, int(self.free[column, row]))
            if one.total > 1:
                self.shared[column] = one.total
            self.free[column, row] = one.level()
            self.capacity[column, row] = min(int(self.capacity[column, row]), len(one.ids) * one.total)
        self.devices[row] = found

    def _columns(self, rows: Sequence[Mapping[str, int]]) -> NDArray[np.int64]:
        columns = [
            np.fromiter([row.get(slot, 0) for row in rows], dtype=np.int64, count=len(rows)) for slot in self.slots
        ]
        return np.array(columns, dtype=np.int64).reshape(len(self.slots), len(rows))

    def _column_of(self, amounts: Mapping[str, int]) -> NDArray[np.int64]:
        return np.array([amounts.get(slot, 0) for slot in self.slots], dtype=np.int64)

    def _most(self, amounts: NDArray[np.int64]) -> list[int]:
        return [int(one) for one in amounts.max(axis=1, initial=0)]


def _unused(device: DeviceState) -> DeviceState:
    return replace(device, used=0)


def _same(old: DeviceState, new: DeviceState) -> bool:
    return (old.device_id, old.slot, old.total, old.healthy) == (new.device_id, new.slot, new.total, new.healthy)
