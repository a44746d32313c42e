"""One pass: session after session in order, until nobody can start any more. At its end the planner is as before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from moorage.scheduler import backfill, preempt, reasons
from moorage.scheduler.backfill import Release
from moorage.scheduler.feasible import Told, limit
from moorage.scheduler.place import Room
from moorage.scheduler.queue import Line, Next
from moorage.scheduler.shape import Need, Seat, Shape
from moorage.scheduler.snapshot import (
    Cause,
    Decisions,
    Head,
    Hold,
    Placement,
    Preemption,
    PreemptionMode,
    Refusal,
    Reservation,
    WaitingSession,
)

if TYPE_CHECKING:
    from moorage.scheduler.planner import Planner


# How many of the highest ranked are tried when looking for whom others make way.
_RANKS_TRIED = 8


class OnePass:
    """One pass: what it placed and kept so far. At its end the planner is as before."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self.room = planner.room
        self.policy = planner.policy
        self.now = planner.now
        self.placements: list[Placement] = []
        self.undo: list[tuple[Seat, bool]] = []
        self.placed: dict[str, Shape] = {}
        self.ending: dict[int, list[Release]] = {}
        self.held_for: dict[str, Hold] = {}
        self.head: WaitingSession | None = None
        self.promise: backfill.Promise | None = None
        self.may_starve = False  # whether nobody knows when the head can start
        self.passed_head = False
        self.worth: set[int] | None = None
        self.preemptions: list[Preemption] = []
        self.reservations: list[Reservation] = []

    def run(self) -> Decisions:
        planner, room = self.planner, self.room
        start = len(room.log)
        planner.admit_due()
        room.revive(planner.settled)
        planner.settled = start
        room.cursor = planner.cursor
        self._keep_holds()
        self._look_at_all()
        self._make_way_for_rank()
        refusals = self._refuse()
        skipped = (self.head.session_id,) if self.head is not None and self.passed_head else ()
        return Decisions(
            tuple(self.placements), refusals, tuple(self.preemptions), tuple(self.reservations), skipped, room.cursor
        )

    # Looking at sessions.

    def _look_at_all(self) -> None:
        walk = self.planner.queue.walk(self.planner.burden, self._worth_a_look)
        try:
            line, session_id = next(walk)
            while True:
                done = self._look_at(line, session_id)
                if done is None:
                    return
                line, session_id = walk.send(done)
        except StopIteration:
            return

    def _worth_a_look(self) -> Collection[int]:
        """Lines that may start; until the head is known all, because it may be in any. One too many does no harm."""
        lines = self.planner.queue.numbered
        if self.head is None:
            return lines
        known = lines if self.worth is None else self.worth
        self.worth = {number for number in known if lines[number].shape.possible and self._has_room(lines[number])}
        return self.worth

    def _has_room(self, line: Line) -> bool:
        shape = line.shape
        if not shape.hopeless and shape.whole and not self.room.has_room(shape.parts[0]):
            self.room.despair(shape)
        return not shape.hopeless or (self._is_short(line) and bool(self._promised_rows(line)))

    def _drop(self, line: Line) -> Next:
        """None of the line can start any more in this pass, whoever's it is."""
        if self.worth is not None:
            self.worth.discard(line.number)
        return Next.DROPPED

    def _look_at(self, line: Line, session_id: str) -> Next | None:
        """None ends the pass."""
        shape = line.shape
        if session_id in self.placed:
            return Next.PASSED
        if self.worth is not None and line.number not in self.worth:
            return Next.DROPPED
        if not shape.possible or (self.head is not None and shape.hopeless and not self._is_short(line)):
            return self._drop(line)
        if line.tenants and limit(line.tenants, shape.total) is not None:
            return self._drop(line)
        session = self.planner.waiting[session_id]
        if not shape.hopeless:
            seats = self.room.plan(shape, session.avoid)
            if seats is not None:
                self._place(session, line, seats)
                return Next.PLACED
            self.room.despair(shape)
        if self._is_short(line) and self._place_before_promise(session, line):
            return Next.PLACED
        if self.head is None:
            if session_id in self.held_for:
                return Next.PASSED
            self._make_head(session, shape)
            if self.policy.head is Head.STRICT:
                return None
        return self._drop(line)

    def _place(self, session: WaitingSession, line: Line, seats: list[Seat], *, short: bool = False) -> None:
        if len(seats) < len(session.kernels):
            seats = _split(seats[0], session, self.room, short=short)
        kernels: dict[str, str] = {}
        devices: dict[str, dict[str, int]] = {}
        for kernel, seat in zip(session.kernels, seats, strict=True):
            kernels[kernel.kernel_id] = self.room.agent_ids[seat.row]
            if seat.devices:
                devices[kernel.kernel_id] = seat.devices
        self.placements.append(Placement(session.session_id, session.attempt, kernels, devices))
        for seat in seats:
            self.undo.append((seat, short))
        for tenant in line.tenants:
            tenant.add(line.shape.total)
        if self.planner.shares:
            self.planner.charge(session.owner, line.shape.counted, 1)
        self.placed[session.session_id] = line.shape
        if self.head is not None:
            self.passed_head |= self.may_starve
        elif session.time_limit_s is not None:
            for kernel, seat in zip(session.kernels, seats, strict=True):
                release = Release(self.now + session.time_limit_s, kernel.slots, seat.devices)
                self.ending.setdefault(seat.row, []).append(release)

    def _is_short(self, line: Line) -> bool:
        """Whether its sessions end before the promised start, so that they may use the promised nodes."""
        if self.promise is None or self.promise.at is None or line.time_limit_s is None or not line.shape.whole:
            return False
        return self.now + line.time_limit_s <= self.promise.at

    def _place_before_promise(self, session: WaitingSession, line: Line) -> bool:
        part, rows = line.shape.parts[0], self._promised_rows(line)
        if not rows:
            return False
        row = min(rows, key=lambda one: (self.room.agent_ids[one] in session.avoid, part.base[one], one))
        self._place(session, line, [self.room.take(row, part.need, short=True)], short=True)
        return True

    def _promised_rows(self, line: Line) -> list[int]:
        """Promised nodes that have room for it until the promise begins."""
        assert self.promise is not None
        part = line.shape.parts[0]
        return [row for row in self.promise.spare if part.base[row] < inf and self.room.fits_really(row, part.need)]

    # The head of the queue.

    def _make_head(self, session: WaitingSession, shape: Shape) -> None:
        self.head = session
        if self.policy.preemption is not PreemptionMode.OFF and self._preempt(session, shape):
            return
        if self.policy.head is not Head.EASY:
            return
        promise = backfill.promise(self.room, shape, self._releases, self._firsts, self.now)
        self.may_starve = promise is None
        if promise is None and session.skips >= self.policy.skip_limit:
            promise = backfill.nearest(self.room, shape)
        if promise is None:
            return
        self.promise = promise
        for row, spare in promise.spare.items():
            self.room.keep(row).spare = spare
            self.room.show(row)
        agents = tuple(self.room.agent_ids[row] for row in sorted(promise.spare))
        self.reservations.append(Reservation(session.session_id, agents, promise.at))

    def _releases(self, row: int) -> list[Release]:
        known, added = self.planner.releases(row), self.ending.get(row)
        return sorted([*known, *added], key=lambda one: one.end) if added else known

    def _firsts(self) -> NDArray[np.float64]:
        firsts = self.planner.first_ends().copy()
        for row, added in self.ending.items():
            firsts[row] = min(firsts[row], *(one.end for one in added))
        return firsts

    def _preempt(self, session: WaitingSession, shape: Shape) -> bool:
        found = preempt.evict(self.room, shape, session, self._held_on, self.policy, self.now)
        if found is None:
            return False
        where = {
            kernel.kernel_id: self.room.agent_ids[row] for kernel, row in zip(session.kernels, found.rows, strict=True)
        }
        hold = Hold(session.session_id, where, self.now + self.policy.preemption_hold_s)
        self.preemptions.append(Preemption(found.victims, hold))
        self._keep(hold, session)
        return True

    def _make_way_for_rank(self) -> None:
        """One that is not the head may have others stopped too, if its job priority is above the head's."""
        if self.policy.preemption is PreemptionMode.OFF or self.preemptions or self.policy.head is Head.STRICT:
            return
        planner = self.planner
        rank = self.head.job_priority if self.head is not None else 0
        higher = [
            one
            for one in planner.waiting.values()
            if one.job_priority > rank and one.session_id not in self.placed and one.session_id in planner.queue
        ]
        higher.sort(key=lambda one: (-one.job_priority, -one.priority, one.submitted, one.session_id))
        for session in higher[:_RANKS_TRIED]:
            line = planner.queue.line(session.session_id)
            free_to_start = session.session_id not in self.held_for and line.shape.possible
            if free_to_start and limit(line.tenants, line.shape.total) is None and self._preempt(session, line.shape):
                return

    def _held_on(self, row: int) -> Iterable[preempt.Held]:
        return self.planner.on_row.get(row, {}).values()

    # Holds.

    def _keep_holds(self) -> None:
        """Room of earlier preemptions: its session is tried there first, and nobody else gets it."""
        queue = self.planner.queue
        for hold in sorted(self.planner.holds, key=lambda one: one.session_id):
            session = self.planner.waiting.get(hold.session_id)
            if session is None or hold.until <= self.now or hold.session_id in self.held_for:
                continue
            if set(hold.kernels) != {kernel.kernel_id for kernel in session.kernels}:
                continue
            if any(agent_id not in self.room.row_of for agent_id in hold.kernels.values()):
                continue
            self.held_for[hold.session_id] = hold
            self._keep(hold, session)
        for session_id, hold in self.held_for.items():
            if session_id in queue:
                self._try_held(hold, self.planner.waiting[session_id], queue.line(session_id))

    def _keep(self, hold: Hold, session: WaitingSession) -> None:
        for row, needs in self._held_needs(hold, session).items():
            self.room.keep(row).holds[hold.session_id] = needs
            self.room.show(row)

    def _held_needs(self, hold: Hold, session: WaitingSession) -> dict[int, list[Need]]:
        needs: dict[int, list[Need]] = {}
        for kernel in session.kernels:
            row = self.room.row_of[hold.kernels[kernel.kernel_id]]
            needs.setdefault(row, []).append(self._need(kernel.slots))
        return needs

    def _need(self, slots: Mapping[str, int]) -> Need:
        column = self.room.column
        return tuple(sorted((column[slot], some) for slot, some in slots.items() if some > 0 and slot in column))

    def _try_held(self, hold: Hold, session: WaitingSession, line: Line) -> None:
        if not line.shape.possible or limit(line.tenants, line.shape.total) is not None:
            return
        rows = list(self._held_needs(hold, session))
        for row in rows:
            del self.room.kept[row].holds[hold.session_id]
            self.room.show(row)
        seats: list[Seat] = []
        for kernel in session.kernels:
            row, need = self.room.row_of[hold.kernels[kernel.kernel_id]], self._need(kernel.slots)
            if not self.room.fits(row, need):
                break
            seats.append(self.room.take(row, need))
        else:
            self._place(session, line, seats)
            return
        for seat in seats:
            self.room.give_back(seat)
        self._keep(hold, session)

    # Who waits, and why.

    def _refuse(self) -> tuple[Refusal, ...]:
        """A refusal for each that was not placed. Only what has another cause than in the last pass is written anew."""
        planner, queue = self.planner, self.planner.queue
        fresh = {line.number: line for line in queue.take_fresh()}
        again = {line.number: line for line in queue.limited.values()}
        kept = self._kept_rows()
        for index, lines in queue.by_shape.items():
            told = self._tell_shape(self.room.shapes[index], kept)
            if planner.told.get(index) is not told:
                planner.told[index] = told
                again.update(lines)
        for number, line in again.items():
            told = self._tell_line(line)
            if line.told != told:
                line.told = told
                self._write(line, line.members)
                fresh.pop(number, None)
                line.untold.clear()
        for line in fresh.values():
            if line.told is None:
                line.told = self._tell_line(line)
            self._write(line, [one for one in line.untold if one in line.members])
            line.untold.clear()
        for session_id in self.placed:
            planner.refusals.pop(session_id, None)
        if self.policy.head is Head.STRICT and self.head is not None:
            self._tell_strict_head(self.head)
        return tuple(planner.refusals.values())

    def _kept_rows(self) -> tuple[list[int], NDArray[np.int64]]:
        rows = sorted(self.room.kept)
        real = np.array([self.room.kept[row].real for row in rows], dtype=np.int64)
        return rows, real.reshape(len(rows), len(self.room.slots))

    def _tell_shape(self, shape: Shape, kept: tuple[list[int], NDArray[np.int64]]) -> Told:
        """The very same value as in the last pass while the cause is the same."""
        before = self.planner.told.get(shape.index)
        cause = self._cause(shape, kept)
        if before is not None and before[0] is cause:
            return before
        return cause, reasons.words(cause, shape, self.room)

    def _cause(self, shape: Shape, kept: tuple[list[int], NDArray[np.int64]]) -> Cause:
        if not shape.possible:
            return Cause.NEVER_FITS if self.room.nodes else Cause.NO_NODES
        if self.policy.head is Head.STRICT and self.head is not None:
            return Cause.BEHIND_HEAD
        rows, real = kept
        if rows and bool(((real >= shape.low).all(axis=1) & (shape.parts[0].base[rows] < inf)).any()):
            return Cause.RESERVED
        return Cause.NO_ROOM

    def _tell_line(self, line: Line) -> Told:
        told = self.planner.told[line.shape.index]
        if not line.tenants or told[0] in (Cause.NEVER_FITS, Cause.NO_NODES):
            return told
        over = limit(line.tenants, line.shape.total)
        if over is None:
            return told
        return line.told if line.told is not None and line.told[0] is over[0] else over

    def _write(self, line: Line, session_ids: Iterable[str]) -> None:
        assert line.told is not None
        cause, message = line.told
        refusals = self.planner.refusals
        for session_id in session_ids:
            refusals[session_id] = Refusal(session_id, cause, message)

    def _tell_strict_head(self, head: WaitingSession) -> None:
        shape = self.planner.queue.line(head.session_id).shape
        message = reasons.words(Cause.NO_ROOM, shape, self.room)
        self.planner.refusals[head.session_id] = Refusal(head.session_id, Cause.NO_ROOM, message)
        self.planner.queue.untell(head.session_id)

    def roll_back(self) -> None:
        """Leaves the planner as it was before the pass; what was placed waits until `apply` says that it runs."""
        room = self.room
        for seat, short in reversed(self.undo):
            room.give_back(seat, short=short)
        for row in list(room.kept):
            room.release(row)
        for session_id, shape in self.placed.items():
            self.planner.queue.untell(session_id)
            if self.planner.shares:
                self.planner.charge(self.planner.waiting[session_id].owner, shape.counted, -1)
        if self.placed:
            self.planner.tenants.reset()
        if room.trim():
            self.planner.settled = 0


def _split(seat: Seat, session: WaitingSession, room: Room, *, short: bool) -> list[Seat]:
    """The seat of a gang that goes on one node as a whole, kernel by kernel; each gets its own of the devices."""
    room.give_back(seat, short=short)
    needs = [
        tuple(sorted((room.column[slot], some) for slot, some in kernel.slots.items() if some > 0))
        for kernel in session.kernels
    ]
    return [room.take(seat.row, need, short=short) for need in needs]
