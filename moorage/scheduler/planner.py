"""Passes over one resource group. What the passes share is kept warm; `decide` is a planner that makes one pass."""

from __future__ import annotations

import gc
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import inf
from typing import cast

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler import preempt
from moorage.scheduler.backfill import Release
from moorage.scheduler.feasible import Tenants, Told, barred
from moorage.scheduler.one_pass import OnePass
from moorage.scheduler.order import ORDERS, Account, Level, Order, Sharing
from moorage.scheduler.place import Room
from moorage.scheduler.queue import Next, Queue
from moorage.scheduler.score import SELECTORS, Selector
from moorage.scheduler.snapshot import (
    Cause,
    Changes,
    Decisions,
    Owner,
    Policy,
    Refusal,
    RunningSession,
    Snapshot,
    TenantState,
    WaitingSession,
)


class Planner:
    """Decides passes. `apply` says what changed between them; a pass itself changes nothing that the next one sees.

    Time must not run backwards between passes. The words of a refusal are those of the pass that found its cause; they
    stay while the cause stays, so that 100,000 sessions that wait on cost nothing.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        policy: Policy,
        *,
        orders: Mapping[str, Order] = ORDERS,
        selectors: Mapping[str, Selector] = SELECTORS,
    ) -> None:
        self.policy = policy
        self.order = orders[policy.order]
        self.selector = selectors[policy.selector]
        self.shares = isinstance(self.order, Sharing)
        self.sharing = cast(Sharing, self.order)  # asked only where `shares`: to prove it each time would take longest
        self.nodes = {node.agent_id: node for node in snapshot.nodes}
        self.waiting = {session.session_id: session for session in snapshot.waiting}
        self.running = {session.session_id: session for session in snapshot.running}
        self.holds = snapshot.holds
        self.cursor = snapshot.cursor
        self.now = snapshot.now
        with _uncollected():
            self._read_tenants(snapshot.tenants)
            self._read_nodes()

    def decide(self, now: float | None = None) -> Decisions:
        """One pass at `now` (the snapshot's or the last one's if not given)."""
        self.now = self.now if now is None else now
        with _uncollected():
            made = OnePass(self)
            decisions = made.run()
            made.roll_back()
        return decisions

    def decide_last(self) -> Decisions:
        """The same, after which the planner is of no more use."""
        with _uncollected():
            return OnePass(self).run()

    def line_up(self, limit: int) -> list[str]:
        """The first ones in the order of this moment, if nothing were placed; then those whom a limit or wish bars."""
        walk = self.queue.walk(self.burden, lambda: self.queue.numbered)
        found: list[str] = []
        with suppress(StopIteration):
            _, session_id = next(walk)
            while len(found) < limit:
                found.append(session_id)
                _, session_id = walk.send(Next.PASSED)
        walk.close()
        return [*found, *sorted(self.waiting.keys() - set(found))[: limit - len(found)]]

    def snapshot(self) -> Snapshot:
        """All that is known, as one value."""
        return Snapshot(
            self.now,
            tuple(self.nodes.values()),
            tuple(self.waiting.values()),
            tuple(self.running.values()),
            tuple(self.tenants.states.values()),
            self.holds,
            self.cursor,
        )

    def apply(self, changes: Changes) -> None:
        """Takes in what changed. Cheap for use and sessions; a node that is new, gone or different is read with all."""
        if changes.holds is not None:
            self.holds = changes.holds
        if changes.cursor is not None:
            self.cursor = changes.cursor
        anew = self._apply_nodes(changes)
        for session_id in changes.removed_running:
            self._forget_running(session_id)
        for session in changes.running:
            self._forget_running(session.session_id)
            self.running[session.session_id] = session
            self._count_running(session)
        for session_id in changes.removed_waiting:
            self._forget_waiting(session_id)
        for waiting in changes.waiting:
            self._forget_waiting(waiting.session_id)
            self.waiting[waiting.session_id] = waiting
        if changes.tenants and not self._apply_tenants(changes.tenants):
            anew = True
        if anew:
            self._read_nodes()
            return
        for waiting in changes.waiting:
            self._enqueue(waiting)

    # Reading.

    def _read_tenants(self, tenants: Iterable[TenantState]) -> None:
        self.tenants = Tenants(tenants)

    def _read_nodes(self) -> None:
        """Everything that depends on which nodes there are, so everything."""
        self.room = Room(self.nodes.values(), self.selector)
        self.settled = 0  # where the room's log stood when the last pass began
        self.told: dict[int, Told] = {}
        self.refusals: dict[str, Refusal] = {}
        self._read_capacity()
        self.on_row: dict[int, dict[str, preempt.Held]] = {}
        self._releases: dict[int, list[Release]] = {}
        self._first_ends = np.full(len(self.room.nodes), inf)
        self._moved: set[int] = set()
        self._helds: dict[tuple[str, str, str, str], list[tuple[Level, list[int]]]] = {}
        self.accounts: dict[Level, Account] = {}
        self._burdens: dict[Level, float] = {}
        self._count_all_running()
        self._later: list[tuple[float, str]] = []
        self.queue = Queue(self.order, self.policy, self.tenants)
        ready = [session for session in self.waiting.values() if not self._bar(session)]
        shape = self.room.shape
        self.queue.fill((session, shape(session)) for session in ready)

    def _read_capacity(self) -> None:
        counted = self.room.counted
        self.place_of = {self.room.slots[column]: place for place, column in enumerate(counted)}
        self.offered = [int(self.room.offered[column]) for column in counted]

    def _apply_nodes(self, changes: Changes) -> bool:
        anew = False
        for agent_id in changes.removed_nodes:
            gone = self.nodes.pop(agent_id, None)
            anew |= gone is not None and gone.schedulable
        for node in changes.nodes:
            self.nodes[node.agent_id] = node
            anew = anew or not self.room.update(node)
        return anew

    def _apply_tenants(self, tenants: tuple[TenantState, ...]) -> bool:
        if not self.tenants.replace(tenants):
            known = {**self.tenants.states, **{(state.scope, state.name): state for state in tenants}}
            self._read_tenants(known.values())
            return False
        self._burdens.clear()
        for level, account in list(self.accounts.items()):
            self.accounts[level] = replace(account, decayed=self._decayed(level), weight=self._weight(level))
        return True

    # Sessions.

    def _enqueue(self, session: WaitingSession) -> None:
        if not self._bar(session):
            self.queue.add(session, self.room.shape(session))

    def _bar(self, session: WaitingSession) -> bool:
        told = barred(session, self.policy, self.now)
        if told is None:
            return False
        self.refusals[session.session_id] = Refusal(session.session_id, *told)
        if told[0] is Cause.NOT_YET:
            insort(self._later, (session.not_before, session.session_id))
        return True

    def admit_due(self) -> None:
        """Sessions whose time has come join the queue."""
        while self._later and self._later[0][0] <= self.now:
            not_before, session_id = self._later.pop(0)
            session = self.waiting.get(session_id)
            if session is not None and session.not_before == not_before and session_id not in self.queue:
                self.refusals.pop(session_id, None)
                self._enqueue(session)

    def _forget_waiting(self, session_id: str) -> None:
        if self.waiting.pop(session_id, None) is None:
            return
        self.refusals.pop(session_id, None)
        if session_id in self.queue:
            self.queue.remove(session_id)

    def _count_all_running(self) -> None:
        held: dict[tuple[str, str, str, str], tuple[Owner, dict[str, int]]] = {}
        for session in self.running.values():
            self._put_on_rows(session)
            if not self.shares:
                continue
            owner = session.owner
            key = (owner.user, owner.project, owner.domain, owner.keypair)
            total = held.setdefault(key, (owner, {}))[1]
            for kernel in session.kernels:
                for slot, amount in kernel.slots.items():
                    total[slot] = total.get(slot, 0) + amount
        for owner, total in held.values():
            self.charge(owner, self._places(total), 1)

    def _put_on_rows(self, session: RunningSession) -> None:
        for kernel in session.kernels:
            row = self.room.row_of.get(kernel.agent_id)
            if row is not None:
                self.on_row.setdefault(row, {})[kernel.kernel_id] = (session, kernel)
                self._moved.add(row)

    def _count_running(self, session: RunningSession, *, sign: int = 1) -> None:
        for kernel in session.kernels:
            row = self.room.row_of.get(kernel.agent_id)
            if row is not None:
                self._releases.pop(row, None)
                self._moved.add(row)
                here = self.on_row.setdefault(row, {})
                if sign > 0:
                    here[kernel.kernel_id] = (session, kernel)
                else:
                    here.pop(kernel.kernel_id, None)
                self.room.log.append(row)
        if self.shares:
            for kernel in session.kernels:
                self.charge(session.owner, self._places(kernel.slots), sign)

    def _forget_running(self, session_id: str) -> None:
        session = self.running.pop(session_id, None)
        if session is not None:
            self._count_running(session, sign=-1)

    def releases(self, row: int) -> list[Release]:
        """What running sessions will give back on a node, by end."""
        found = self._releases.get(row)
        if found is None:
            held = self.on_row.get(row, {}).values()
            found = [Release(_end(session), kernel.slots, kernel.devices) for session, kernel in held]
            found.sort(key=lambda one: one.end)
            self._releases[row] = found
        return found

    def first_ends(self) -> NDArray[np.float64]:
        """By row, when the first of the running sessions ends."""
        for row in self._moved:
            found = self.releases(row)
            self._first_ends[row] = found[0].end if found else inf
        self._moved.clear()
        return self._first_ends

    # Use, for the orders that look at it.

    def charge(self, owner: Owner, counted: Iterable[tuple[int, int]], sign: int) -> None:
        """Adds to what the owner holds, by counted slot, at each level that the order compares."""
        key = (owner.user, owner.project, owner.domain, owner.keypair)
        found = self._helds.get(key)
        if found is None:
            found = self._helds[key] = [(level, self.account(level).held) for level in self.sharing.path(owner)]
        for level, held in found:
            self._burdens.pop(level, None)
            for place, amount in counted:
                held[place] += sign * amount

    def _places(self, slots: Mapping[str, int]) -> list[tuple[int, int]]:
        return [(self.place_of[slot], amount) for slot, amount in slots.items() if slot in self.place_of]

    def account(self, level: Level) -> Account:
        found = self.accounts.get(level)
        if found is None:
            found = Account([0] * len(self.offered), self._decayed(level), self._weight(level))
            self.accounts[level] = found
        return found

    def burden(self, level: Level) -> float:
        found = self._burdens.get(level)
        if found is None:
            found = self._burdens[level] = self.sharing.burden(self.account(level), self.offered, self.policy)
        return found

    def _decayed(self, level: Level) -> list[float]:
        used = self.tenants.decayed(level)
        return [used.get(slot, 0.0) for slot in self.place_of]

    def _weight(self, level: Level) -> float:
        scope, name = level
        return self.tenants.weight(level, (scope, name.rpartition("@")[0] or name))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look at 100,000 live sessions again and again and find nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _end(session: RunningSession) -> float:
    if session.leaving:
        return -inf
    return inf if session.time_limit_s is None else session.since + session.time_limit_s
