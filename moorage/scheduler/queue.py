"""The waiting sessions in order, in lines of equal requests of one owner, so that one refusal speaks for all."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Generator, Iterable
from enum import Enum
from heapq import heapify, heappop, heapreplace
from typing import Any

from moorage.scheduler.feasible import Tenant, Tenants, Told
from moorage.scheduler.order import Level, Order, Sharing
from moorage.scheduler.place import Shape
from moorage.scheduler.snapshot import Owner, Policy, WaitingSession

Entry = tuple[Any, ...]  # (band, *key of the order, session id): the id makes every order total


class Next(Enum):
    """What the pass did with the session that was looked at."""

    PLACED = 1
    PASSED = 2  # this one stays; look at the next of its line
    DROPPED = 3  # nothing of its line can start in this pass


class Line:
    """Waiting sessions that start or don't for the same reasons: same request, same limits, same time limit."""

    __slots__ = ("at", "entries", "leaf", "number", "shape", "tenants", "time_limit_s", "told", "untold")

    def __init__(self, number: int, shape: Shape, tenants: tuple[Tenant, ...], time_limit_s: float | None) -> None:
        self.number = number
        self.shape = shape
        self.tenants = tenants
        self.time_limit_s = time_limit_s
        self.entries: list[Entry] = []
        self.at = 0
        self.leaf: Branch | None = None
        self.told: Told | None = None
        self.untold: list[str] = []


class Branch:
    """An owner in the tree of levels, with those below it, or with its lines if nothing is below."""

    __slots__ = ("below", "first", "heap", "level", "lines", "up")

    def __init__(self, level: Level | None, up: Branch | None) -> None:
        self.level = level
        self.up = up
        self.below: dict[Level, Branch] = {}
        self.lines: dict[int, Line] = {}
        self.first: Entry | None = None
        self.heap: list[tuple[Any, ...]] | None = None

    def earliest(self) -> Entry:
        """The entry that decides between owners who have the same. Only asked while something waits here."""
        if self.first is None:
            below = [branch.earliest() for branch in self.below.values()]
            self.first = min(below or [line.entries[0] for line in self.lines.values()])
        return self.first


Walk = Generator[tuple[Line, str], Next, None]


class Queue:
    """All waiting sessions that a pass may look at, kept in order while they come and go."""

    def __init__(self, order: Order, policy: Policy, tenants: Tenants) -> None:
        self._order = order
        self._policy = policy
        self._tenants = tenants
        self._sharing = order if isinstance(order, Sharing) else None
        self._one_band = bool(getattr(order, "crosses_bands", False))
        self._lines: dict[tuple[Any, ...], Line] = {}
        self._owners: dict[tuple[str, str, str, str], tuple[int, tuple[Tenant, ...]]] = {}
        self._where: dict[str, tuple[Line, Entry, tuple[Any, ...]]] = {}
        self._bands: dict[Any, Branch] = {}
        self._fresh: dict[int, Line] = {}
        self._numbers = 0
        self.by_shape: dict[int, dict[int, Line]] = {}
        self.limited: dict[int, Line] = {}

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._where

    def fill(self, sessions: Iterable[tuple[WaitingSession, Shape]]) -> None:
        """As `add` for each, faster."""
        for session, shape in sessions:
            line, entry = self._enter(session, shape)
            line.entries.append(entry)
        for line in self._lines.values():
            line.entries.sort()

    def add(self, session: WaitingSession, shape: Shape) -> None:
        line, entry = self._enter(session, shape)
        insort(line.entries, entry)
        _forget_first(line.leaf)

    def remove(self, session_id: str) -> None:
        line, entry, key = self._where.pop(session_id)
        line.entries.pop(bisect_left(line.entries, entry))
        _forget_first(line.leaf)
        if not line.entries:
            self._drop(line, key)

    def line(self, session_id: str) -> Line:
        return self._where[session_id][0]

    def entry(self, session_id: str) -> Entry:
        return self._where[session_id][1]

    def lines(self) -> Iterable[Line]:
        return self._lines.values()

    @property
    def size(self) -> int:
        """How many sessions may be looked at."""
        return len(self._where)

    def position(self, session_id: str, burden: Callable[[Level], float]) -> int:
        """How many come before it, plus one, if nothing were placed in between."""
        mine = self.entry(session_id)
        if self._sharing is None:
            return 1 + sum(bisect_left(line.entries, mine) for line in self._lines.values())
        ahead = 0
        for band, root in self._bands.items():
            if band < mine[0]:
                ahead += _count(root)
        branch = self.line(session_id).leaf
        assert branch is not None
        ahead += sum(bisect_left(line.entries, mine) for line in branch.lines.values())
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

    def walk(self, burden: Callable[[Level], float], alive: Callable[[Line], bool]) -> Walk:
        """Session after session in order; the caller sends back what it did with each."""
        if self._sharing is None:
            return _walk_lines(_heap(self._lines.values()))
        return self._walk_bands(burden, alive)

    def _walk_bands(self, burden: Callable[[Level], float], alive: Callable[[Line], bool]) -> Walk:
        for band in sorted(self._bands):
            root = self._bands[band]
            _clear(root)
            _open(root, burden, alive)
            while root.heap:
                branch = root
                while branch.below and branch.heap:
                    branch = branch.heap[0][-1]
                    if branch.heap is None:
                        _open(branch, burden, alive)
                if not branch.heap:
                    _close(branch)
                    continue
                line: Line = branch.heap[0][-1]
                done = yield line, line.entries[line.at][-1]
                _advance(branch.heap, line, done)
                if done is Next.PLACED:
                    _weigh(branch, burden)

    def _enter(self, session: WaitingSession, shape: Shape) -> tuple[Line, Entry]:
        owner, session_id = session.owner, session.session_id
        owner_key = (owner.user, owner.project, owner.domain, owner.keypair)
        known = self._owners.get(owner_key)
        if known is None:
            known = self._owners[owner_key] = (len(self._owners), self._tenants.of(owner))
        number, tenants = known
        band = 0 if self._one_band else -session.priority
        entry = (band, *self._order.key(session, self._policy), session_id)
        # Owners without limits are told apart only where the order looks at them.
        key: tuple[Any, ...]
        if self._sharing is not None:
            key = (shape.index, session.time_limit_s, number, band)
        else:
            key = (shape.index, session.time_limit_s, number if tenants else -1)
        line = self._lines.get(key)
        if line is None:
            line = self._open_line(key, shape, tenants, session)
            if self._sharing is not None:
                self._hang(line, self._sharing.path(owner), band)
        self._where[session_id] = (line, entry, key)
        untold = line.untold
        if not untold:
            self._fresh[line.number] = line
        untold.append(session_id)
        return line, entry

    def _open_line(
        self, key: tuple[Any, ...], shape: Shape, tenants: tuple[Tenant, ...], session: WaitingSession
    ) -> Line:
        self._numbers += 1
        line = self._lines[key] = Line(self._numbers, shape, tenants, session.time_limit_s)
        self.by_shape.setdefault(shape.index, {})[line.number] = line
        if tenants:
            self.limited[line.number] = line
        return line

    def _hang(self, line: Line, path: tuple[Level, ...], band: Any) -> None:
        branch = self._bands.get(band)
        if branch is None:
            branch = self._bands[band] = Branch(None, None)
        for level in path:
            below = branch.below.get(level)
            if below is None:
                below = branch.below[level] = Branch(level, branch)
            branch = below
        branch.lines[line.number] = line
        line.leaf = branch

    def _drop(self, line: Line, key: tuple[Any, ...]) -> None:
        del self._lines[key]
        del self.by_shape[line.shape.index][line.number]
        if not self.by_shape[line.shape.index]:
            del self.by_shape[line.shape.index]
        self.limited.pop(line.number, None)
        self._fresh.pop(line.number, None)
        branch = line.leaf
        if branch is None:
            return
        del branch.lines[line.number]
        while branch.up is not None and not branch.lines and not branch.below:
            assert branch.level is not None
            del branch.up.below[branch.level]
            branch = branch.up
        if branch.up is None and not branch.below:
            self._bands = {band: root for band, root in self._bands.items() if root is not branch}


def paths(order: Order, owner: Owner) -> tuple[Level, ...]:
    """The levels whose use an order compares for an owner; none if it compares none."""
    return order.path(owner) if isinstance(order, Sharing) else ()


def _walk_lines(heap: list[tuple[Any, ...]]) -> Walk:
    while heap:
        entry, _, line = heap[0]
        done = yield line, entry[-1]
        _advance(heap, line, done)


def _heap(lines: Iterable[Line]) -> list[tuple[Any, ...]]:
    heap = []
    for line in lines:
        line.at = 0
        heap.append((line.entries[0], line.number, line))
    heapify(heap)
    return heap


def _advance(heap: list[tuple[Any, ...]], line: Line, done: Next) -> None:
    if done is not Next.DROPPED:
        line.at += 1
        if line.at < len(line.entries):
            heapreplace(heap, (line.entries[line.at], line.number, line))
            return
    heappop(heap)


def _clear(branch: Branch) -> None:
    branch.heap = None
    for below in branch.below.values():
        _clear(below)


def _open(branch: Branch, burden: Callable[[Level], float], alive: Callable[[Line], bool]) -> None:
    if not branch.below:
        branch.heap = _heap(line for line in branch.lines.values() if alive(line))
        return
    branch.heap = [(burden(level), below.earliest(), level, below) for level, below in branch.below.items()]
    heapify(branch.heap)


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
    return below + sum(len(line.entries) for line in branch.lines.values())


def _forget_first(branch: Branch | None) -> None:
    while branch is not None:
        branch.first = None
        branch = branch.up
