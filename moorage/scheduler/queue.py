"""The waiting sessions in order, in lines of equal requests of one owner, so that one refusal speaks for all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from enum import Enum
from heapq import heapify, heappop, heapreplace
from typing import Any

from moorage.scheduler.feasible import Tenant, Tenants, Told
from moorage.scheduler.order import Level, Order, Sharing
from moorage.scheduler.shape import Shape
from moorage.scheduler.snapshot import Owner, Policy, WaitingSession

Entry = tuple[Any, ...]  # (band, *key of the order, session id): the id makes every order total
Heap = list[tuple[Any, ...]]

# After so many owners, and then twice as many each time, it is asked again which lines are worth a look.
_LOOK_AGAIN = 64

LineKey = tuple[int, float | None, int]
Place = tuple[Any, tuple[Level, ...]]  # (band, path): where a leaf hangs


class Next(Enum):
    """What the pass did with the session that was looked at."""

    PLACED = 1
    PASSED = 2  # this one stays; look at the next of its line
    DROPPED = 3  # nothing of its line can start in this pass


class Line:
    """Waiting sessions that start or don't for the same reasons: same request, same limits, same time limit."""

    __slots__ = ("key", "members", "number", "shape", "tenants", "time_limit_s", "told", "untold")

    def __init__(
        self, key: LineKey, number: int, shape: Shape, tenants: tuple[Tenant, ...], time_limit_s: float | None
    ) -> None:
        self.key = key
        self.number = number
        self.shape = shape
        self.tenants = tenants
        self.time_limit_s = time_limit_s
        self.members: dict[str, None] = {}
        self.told: Told | None = None
        self.untold: list[str] = []


class Branch:
    """An owner in the tree of levels, with those below it; a leaf has the entries of its lines, by number."""

    __slots__ = ("below", "counts", "entries", "first", "heap", "level", "place", "root", "up")

    def __init__(self, level: Level | None, up: Branch | None) -> None:
        self.level = level
        self.up = up
        self.place: Place = (0, ())
        self.root: Branch = self if up is None else up.root
        self.counts: dict[int, int] = {}  # of the root: how many wait in each line
        self.below: dict[Level, Branch] = {}
        self.entries: dict[int, list[Entry]] = {}
        self.first: Entry | None = None
        self.heap: Heap | None = None

    def earliest(self) -> Entry:
        """The entry that decides between owners who have the same. Only asked while something waits here."""
        if self.first is None:
            below = [branch.earliest() for branch in self.below.values()]
            self.first = min(below or [entries[0] for entries in self.entries.values()])
        return self.first

    def leaves(self) -> Iterator[Branch]:
        if not self.below:
            yield self
        for branch in self.below.values():
            yield from branch.leaves()


Walk = Generator[tuple[Line, str], Next, None]


class Queue:
    """All waiting sessions that a pass may look at, kept in order while they come and go.

    An order by key alone has one leaf; one that shares has a tree of owners for each priority band.
    """

    def __init__(self, order: Order, policy: Policy, tenants: Tenants) -> None:
        self._order = order
        self._policy = policy
        self._tenants = tenants
        self._sharing = order if isinstance(order, Sharing) else None
        self._one_band = bool(getattr(order, "crosses_bands", False))
        self._lines: dict[LineKey, Line] = {}
        self._owners: dict[tuple[str, str, str, str], tuple[int, tuple[Tenant, ...], tuple[Level, ...]]] = {}
        self._where: dict[str, tuple[Line, Entry, Branch]] = {}
        self._bands: dict[Any, Branch] = {}
        self._leaves: dict[Place, Branch] = {}
        self._fresh: dict[int, Line] = {}
        self._numbers = 0
        self.numbered: dict[int, Line] = {}
        self.by_shape: dict[int, dict[int, Line]] = {}
        self.limited: dict[int, Line] = {}

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._where

    def fill(self, sessions: Iterable[tuple[WaitingSession, Shape]]) -> None:
        """As `add` for each, faster. Only into an empty queue."""
        for session, shape in sessions:
            line, entry, leaf = self._enter(session, shape)
            entries = leaf.entries.get(line.number)
            if entries is None:
                leaf.entries[line.number] = [entry]
            else:
                entries.append(entry)
        for root in self._bands.values():
            counts = root.counts
            for leaf in root.leaves():
                for number, entries in leaf.entries.items():
                    counts[number] = counts.get(number, 0) + len(entries)
                    if len(entries) > 1:
                        entries.sort()
        for line in self.numbered.values():
            line.untold = list(line.members)
        self._fresh = dict(self.numbered)

    def add(self, session: WaitingSession, shape: Shape) -> None:
        line, entry, leaf = self._enter(session, shape)
        insort(leaf.entries.setdefault(line.number, []), entry)
        counts = leaf.root.counts
        counts[line.number] = counts.get(line.number, 0) + 1
        self.untell(session.session_id)
        _forget_first(leaf)

    def remove(self, session_id: str) -> None:
        line, entry, leaf = self._where.pop(session_id)
        entries = leaf.entries[line.number]
        entries.pop(bisect_left(entries, entry))
        leaf.root.counts[line.number] -= 1
        if not leaf.root.counts[line.number]:
            del leaf.root.counts[line.number]
        _forget_first(leaf)
        if not entries:
            del leaf.entries[line.number]
            self._prune(leaf)
        del line.members[session_id]
        if not line.members:
            self._drop(line)

    def line(self, session_id: str) -> Line:
        return self._where[session_id][0]

    @property
    def size(self) -> int:
        """How many sessions may be looked at."""
        return len(self._where)

    def position(self, session_id: str, burden: Callable[[Level], float]) -> int:
        """How many come before it, plus one, if nothing were placed in between."""
        _, mine, leaf = self._where[session_id]
        ahead = sum(_count(root) for band, root in self._bands.items() if band < mine[0] and self._sharing)
        ahead += sum(bisect_left(entries, mine) for entries in leaf.entries.values())
        branch = leaf
        while branch.up is not None:
            assert branch.level is not None
            rank = (burden(branch.level), branch.earliest(), branch.level)
            for level, other in branch.up.below.items():
                if other is not branch and (burden(level), other.earliest(), level) < rank:
                    ahead += _count(other)
            branch = branch.up
        return ahead + 1

    def untell(self, session_id: str) -> None:
        """This session's refusal must be given anew."""
        line = self._where[session_id][0]
        line.untold.append(session_id)
        self._fresh[line.number] = line

    def take_fresh(self) -> list[Line]:
        """Lines with sessions that no refusal was given yet; asked once in a pass."""
        fresh, self._fresh = list(self._fresh.values()), {}
        return fresh

    def walk(self, burden: Callable[[Level], float], alive: Callable[[], Collection[int]]) -> Walk:
        """Session after session in order; the caller sends back what it did with each.

        `alive` tells the numbers of the lines that are worth a look; it is asked when an owner's turn comes.
        """
        for band in sorted(self._bands):
            yield from self._walk_band(self._bands[band], burden, alive)

    def _walk_band(self, root: Branch, burden: Callable[[Level], float], alive: Callable[[], Collection[int]]) -> Walk:
        """`left` counts who was not looked at yet, by line, of the lines that are worth it."""
        _clear(root)
        left = dict(root.counts)
        opened, ask_at, thinned_at = 0, 1, len(left)
        self._open(root, burden, left)
        while root.heap and left:
            if opened >= ask_at:
                worth = alive()
                left = {number: count for number, count in left.items() if number in worth}
                ask_at = opened + max(_LOOK_AGAIN, opened)
                if len(left) * 2 < thinned_at:
                    thinned_at = len(left)
                    root.heap = [one for one in root.heap if not root.below or _may_start(one[-1], left)]
                    heapify(root.heap)
                    continue
            branch = root
            while branch.below and branch.heap:
                branch = branch.heap[0][-1]
                if branch.heap is None:
                    opened += 1
                    self._open(branch, burden, left)
            heap = branch.heap
            if not heap:
                _close(branch)
                continue
            entry, number, line, entries, at = heap[0]
            done = yield line, entry[-1]
            if done is Next.DROPPED:
                left.pop(number, None)
            elif number in left:
                left[number] -= 1
                if not left[number]:
                    del left[number]
            if done is not Next.DROPPED and at + 1 < len(entries):
                heapreplace(heap, (entries[at + 1], number, line, entries, at + 1))
            else:
                heappop(heap)
            if done is Next.PLACED and branch is not root:
                _weigh(branch, burden)

    def _open(self, branch: Branch, burden: Callable[[Level], float], left: Mapping[int, int]) -> None:
        if branch.below:
            branch.heap = [
                (burden(level), below.earliest(), level, below)
                for level, below in branch.below.items()
                if _may_start(below, left)
            ]
        else:
            lines, mine = self.numbered, branch.entries
            few: Iterable[int] = left if len(left) < len(mine) else mine
            branch.heap = [
                (mine[number][0], number, lines[number], mine[number], 0)
                for number in few
                if number in mine and number in left
            ]
        heapify(branch.heap)

    def _enter(self, session: WaitingSession, shape: Shape) -> tuple[Line, Entry, Branch]:
        owner, session_id = session.owner, session.session_id
        owner_key = (owner.user, owner.project, owner.domain, owner.keypair)
        known = self._owners.get(owner_key)
        if known is None:
            known = self._owners[owner_key] = self._new_owner(owner)
        number, tenants, path = known
        # Without sharing, the band is but the first part of the key.
        band = 0 if self._one_band else -session.priority
        entry = (band, *self._order.key(session, self._policy), session_id)
        # Owners without limits wait for the same reasons.
        key = (shape.index, session.time_limit_s, number if tenants else -1)
        line = self._lines.get(key)
        if line is None:
            line = self._open_line(key, shape, tenants)
        place = (band if self._sharing else 0, path)
        leaf = self._leaves.get(place)
        if leaf is None:
            leaf = self._leaves[place] = self._hang(*place)
            leaf.place = place
        self._where[session_id] = (line, entry, leaf)
        line.members[session_id] = None
        return line, entry, leaf

    def _new_owner(self, owner: Owner) -> tuple[int, tuple[Tenant, ...], tuple[Level, ...]]:
        return len(self._owners), self._tenants.of(owner), paths(self._order, owner)

    def _open_line(self, key: LineKey, shape: Shape, tenants: tuple[Tenant, ...]) -> Line:
        self._numbers += 1
        line = self._lines[key] = self.numbered[self._numbers] = Line(key, self._numbers, shape, tenants, key[1])
        self.by_shape.setdefault(shape.index, {})[line.number] = line
        if tenants:
            self.limited[line.number] = line
        return line

    def _hang(self, band: Any, path: tuple[Level, ...]) -> Branch:
        branch = self._bands.get(band)
        if branch is None:
            branch = self._bands[band] = Branch(None, None)
        for level in path:
            below = branch.below.get(level)
            if below is None:
                below = branch.below[level] = Branch(level, branch)
            branch = below
        return branch

    def _drop(self, line: Line) -> None:
        del self._lines[line.key]
        del self.numbered[line.number]
        del self.by_shape[line.shape.index][line.number]
        if not self.by_shape[line.shape.index]:
            del self.by_shape[line.shape.index]
        self.limited.pop(line.number, None)
        self._fresh.pop(line.number, None)

    def _prune(self, leaf: Branch) -> None:
        """Owners of whom nothing waits leave the tree."""
        if leaf.entries:
            return
        del self._leaves[leaf.place]
        branch = leaf
        while branch.up is not None and not branch.below:
            assert branch.level is not None
            del branch.up.below[branch.level]
            branch = branch.up
        if branch.up is None and not branch.below:
            del self._bands[leaf.place[0]]


def paths(order: Order, owner: Owner) -> tuple[Level, ...]:
    """The levels whose use an order compares for an owner; none if it compares none."""
    return order.path(owner) if isinstance(order, Sharing) else ()


def _may_start(branch: Branch, left: Mapping[int, int]) -> bool:
    """Whether an owner has sessions in lines that are left; one with owners below it is taken to have some."""
    return bool(branch.below) or not left.keys().isdisjoint(branch.entries.keys())


def _clear(branch: Branch) -> None:
    branch.heap = None
    for below in branch.below.values():
        _clear(below)


def _close(branch: Branch) -> None:
    """Nothing more can start here; its parent looks at the next."""
    if branch.up is not None and branch.up.heap:
        heappop(branch.up.heap)


def _weigh(branch: Branch, burden: Callable[[Level], float]) -> None:
    """After a placement: the owners on the way up have more now."""
    while branch.up is not None:
        assert branch.up.heap is not None and branch.level is not None
        _, first, level, _ = branch.up.heap[0]
        heapreplace(branch.up.heap, (burden(level), first, level, branch))
        branch = branch.up


def _count(branch: Branch) -> int:
    below = sum(_count(one) for one in branch.below.values())
    return below + sum(len(entries) for entries in branch.entries.values())


def _forget_first(leaf: Branch) -> None:
    branch: Branch | None = leaf
    while branch is not None:
        branch.first = None
        branch = branch.up
