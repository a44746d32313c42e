"""The queue played forward: what would start when, under this or another policy, with fewer nodes or more jobs.

Every pass in here is the planner's own. Time jumps from event to event; run times are given, so nothing is random
but what the caller draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random

from moorage.scheduler.order import ORDERS, Order
from moorage.scheduler.planner import Planner
from moorage.scheduler.score import SELECTORS, Selector
from moorage.scheduler.snapshot import (
    Changes,
    Decisions,
    NodeState,
    Owner,
    Placement,
    Policy,
    PreemptionMode,
    RunningKernel,
    RunningSession,
    Snapshot,
    TenantState,
    WaitingSession,
)

# Session id → seconds it would run from its start; never longer than its time limit.
Durations = Mapping[str, float] | Callable[[str], float]


@dataclass(frozen=True, slots=True)
class Start:
    """One start: when, where, how long after it was submitted."""

    session_id: str
    at: float
    waited_s: float
    placement: Placement


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened until the end. `used` is slot × seconds by owner, `utilisation` the part of each slot in use."""

    starts: tuple[Start, ...]
    ends: Mapping[str, float]
    waiting: tuple[str, ...]
    used: Mapping[Owner, Mapping[str, float]]
    utilisation: Mapping[str, float]
    passes: int
    until: float
    stopped: Mapping[str, float]  # by preemption

    def started(self, session_id: str) -> float | None:
        return next((one.at for one in self.starts if one.session_id == session_id), None)


def simulate(
    snapshot: Snapshot,
    policy: Policy,
    *,
    arrivals: Iterable[WaitingSession] = (),
    durations: Durations,
    until: float,
    stop_when: Callable[[Start], bool] = lambda start: False,
    orders: Mapping[str, Order] = ORDERS,
    selectors: Mapping[str, Selector] = SELECTORS,
) -> Timeline:
    """Plays the group from the snapshot's moment until `until` (seconds since 1970), or a start that `stop_when` likes.

    Arrivals come at their `submitted`. A session that runs in the snapshot ends `durations` after its `since`, but not
    before now. Preempted sessions end at once; under `requeue` they wait again.
    """
    play = _Play(snapshot, policy, durations, orders, selectors)
    coming = sorted(arrivals, key=lambda one: (one.submitted, one.session_id))
    return play.run(coming, until, stop_when)


def without_nodes(snapshot: Snapshot, agent_ids: Iterable[str]) -> Snapshot:
    """What if these nodes were gone? Sessions that run on them are gone too."""
    gone = frozenset(agent_ids)
    return replace(
        snapshot,
        nodes=tuple(node for node in snapshot.nodes if node.agent_id not in gone),
        running=tuple(one for one in snapshot.running if all(kernel.agent_id not in gone for kernel in one.kernels)),
    )


def with_jobs(snapshot: Snapshot, jobs: Iterable[WaitingSession]) -> Snapshot:
    """What if these waited too?"""
    return replace(snapshot, waiting=(*snapshot.waiting, *jobs))


def with_limits(snapshot: Snapshot, tenants: Iterable[TenantState]) -> Snapshot:
    """What if these owners had these limits? Each replaces the state of the same scope and name."""
    known = {(one.scope, one.name): one for one in snapshot.tenants}
    known |= {(one.scope, one.name): one for one in tenants}
    return replace(snapshot, tenants=tuple(known.values()))


def expected_start(
    snapshot: Snapshot,
    policy: Policy,
    session_id: str,
    history: Sequence[float],
    *,
    seed: int,
    samples: int = 20,
    horizon_s: float = 7 * 86400.0,
    orders: Mapping[str, Order] = ORDERS,
    selectors: Mapping[str, Selector] = SELECTORS,
) -> tuple[float, float] | None:
    """Seconds from now to its start (median, 90 % of cases), with run times drawn from past ones.

    None: beyond the horizon. One that runs already draws from the past run times that are longer than it ran; nobody
    outlives its time limit.
    """
    found: list[float] = []
    ordered = sorted(history)
    for number in range(samples):
        drawn = _Drawn(snapshot, ordered, Random(seed * 1_000_003 + number))  # noqa: S311 - a model, not a secret
        timeline = simulate(
            snapshot,
            policy,
            durations=drawn,
            until=snapshot.now + horizon_s,
            stop_when=lambda start: start.session_id == session_id,
            orders=orders,
            selectors=selectors,
        )
        at = timeline.started(session_id)
        found.append(math.inf if at is None else at - snapshot.now)
    found.sort()
    half, most = found[(len(found) - 1) // 2], found[math.ceil(len(found) * 0.9) - 1]
    return None if math.inf in (half, most) else (half, most)


@dataclass(frozen=True, slots=True)
class Shift:
    """A recorded pass decided again: what it placed the same, and who would start earlier or later."""

    same: tuple[str, ...]
    earlier: tuple[str, ...]  # placed now, not then
    later: tuple[str, ...]  # placed then, not now
    elsewhere: tuple[str, ...]  # placed both times, on other nodes or devices


def replay(
    recorded: Iterable[tuple[Snapshot, Policy, Decisions]],
    policy: Policy | None = None,
    *,
    orders: Mapping[str, Order] = ORDERS,
    selectors: Mapping[str, Selector] = SELECTORS,
) -> tuple[Shift, ...]:
    """Decides recorded passes again, under their own policy or another. Under its own, nothing shifts."""
    return tuple(
        _shift(then, Planner(snapshot, policy or own, orders=orders, selectors=selectors).decide_last())
        for snapshot, own, then in recorded
    )


def _shift(then: Decisions, now: Decisions) -> Shift:
    before = {one.session_id: one for one in then.placements}
    after = {one.session_id: one for one in now.placements}
    both = sorted(before.keys() & after.keys())
    return Shift(
        same=tuple(one for one in both if before[one] == after[one]),
        earlier=tuple(sorted(after.keys() - before.keys())),
        later=tuple(sorted(before.keys() - after.keys())),
        elsewhere=tuple(one for one in both if before[one] != after[one]),
    )


class _Drawn:
    """Run times from the past, drawn once for each session."""

    def __init__(self, snapshot: Snapshot, ordered: Sequence[float], chance: Random) -> None:
        self._ordered = ordered
        self._chance = chance
        self._ran = {one.session_id: snapshot.now - one.since for one in snapshot.running}
        # Drawn in the order of ids, so that it doesn't matter who is asked first.
        names = sorted([*self._ran, *(one.session_id for one in snapshot.waiting)])
        self._drawn = {name: self._draw(self._ran.get(name, 0.0)) for name in names}

    def __call__(self, session_id: str) -> float:
        return self._drawn[session_id]

    def _draw(self, ran: float) -> float:
        longer = [one for one in self._ordered if one > ran]
        if not self._ordered:
            return math.inf  # nothing is known: only time limits end anything
        # Longer than all before: as long again is the best guess for heavy tails.
        return self._chance.choice(longer) if longer else 2.0 * ran


class _Play:
    """The state of a simulation: a planner, and the ends that are to come."""

    def __init__(
        self,
        snapshot: Snapshot,
        policy: Policy,
        durations: Durations,
        orders: Mapping[str, Order],
        selectors: Mapping[str, Selector],
    ) -> None:
        self._planner = Planner(snapshot, policy, orders=orders, selectors=selectors)
        self._policy = policy
        self._began = self._now = self._decayed_at = snapshot.now
        self._lasts = durations if callable(durations) else durations.__getitem__
        self._asked: dict[str, WaitingSession] = {}
        self._starts: list[Start] = []
        self._ended: dict[str, float] = {}
        self._stopped: dict[str, float] = {}
        self._used: dict[Owner, dict[str, float]] = {}
        self._end_of: dict[str, float] = {}
        self._ends: list[tuple[float, str]] = []
        for session in snapshot.running:
            self._expect(session)

    def run(self, coming: Sequence[WaitingSession], until: float, stop_when: Callable[[Start], bool]) -> Timeline:
        passes, arrived = 0, 0
        while True:
            due = arrived
            while due < len(coming) and coming[due].submitted <= self._now:
                due += 1
            self._decay()
            self._planner.apply(Changes(waiting=tuple(coming[arrived:due])))
            arrived = due
            self._end_due()
            first = len(self._starts)
            passes += self._passes()
            if any(stop_when(one) for one in self._starts[first:]):
                break
            following = self._following(coming[arrived].submitted if arrived < len(coming) else math.inf)
            if following > until:
                self._now = until if following < math.inf else self._now
                break
            self._now = following
        return self._timeline(passes)

    def _following(self, arrival: float) -> float:
        """When something happens next."""
        while self._ends and self._end_of.get(self._ends[0][1]) != self._ends[0][0]:
            heappop(self._ends)
        later = [one.not_before for one in self._planner.waiting.values() if one.not_before > self._now]
        return min([arrival, *(one for one, _ in self._ends[:1]), *later])

    def _passes(self) -> int:
        """One pass; more if it preempted, because the room that it made is there at once."""
        count = 0
        while True:
            count += 1
            decisions = self._planner.decide(self._now)
            for placement in decisions.placements:
                self._begin(placement)
            waiting = self._planner.waiting
            skipped = tuple(replace(waiting[one], skips=waiting[one].skips + 1) for one in decisions.skipped)
            holds = tuple(one.hold for one in decisions.preemptions)
            for preemption in decisions.preemptions:
                for victim in preemption.victims:
                    self._stop(victim)
            self._planner.apply(Changes(waiting=skipped, holds=holds, cursor=decisions.cursor))
            if not decisions.preemptions:
                return count

    def _begin(self, placement: Placement) -> None:
        session = self._asked[placement.session_id] = self._planner.waiting[placement.session_id]
        kernels = tuple(
            RunningKernel(
                kernel.kernel_id,
                placement.kernels[kernel.kernel_id],
                kernel.slots,
                placement.devices.get(kernel.kernel_id, {}),
            )
            for kernel in session.kernels
        )
        running = RunningSession(
            session.session_id,
            kernels,
            self._now,
            session.owner,
            session.priority,
            session.job_priority,
            session.preemptible,
            session.time_limit_s,
        )
        self._starts.append(Start(session.session_id, self._now, self._now - session.submitted, placement))
        self._planner.apply(
            Changes(
                nodes=self._nodes_with(running, 1),
                running=(running,),
                removed_waiting=(session.session_id,),
                tenants=self._tenants_with(running, 1),
            )
        )
        self._expect(running)

    def _expect(self, running: RunningSession) -> None:
        span = self._lasts(running.session_id)
        if running.time_limit_s is not None:
            span = min(span, running.time_limit_s)
        end = self._end_of[running.session_id] = max(self._now, running.since + span)
        heappush(self._ends, (end, running.session_id))

    def _end_due(self) -> None:
        while self._ends and self._ends[0][0] <= self._now:
            end, session_id = heappop(self._ends)
            if self._end_of.get(session_id) == end:
                self._ended[session_id] = end
                self._free(session_id)

    def _stop(self, session_id: str) -> None:
        """A victim ends now; under `requeue` it waits again if it is known how it was asked for."""
        self._stopped[session_id] = self._now
        asked = self._asked.get(session_id)
        self._free(session_id)
        if asked is not None and self._policy.preemption is PreemptionMode.REQUEUE:
            self._planner.apply(Changes(waiting=(replace(asked, attempt=asked.attempt + 1),)))

    def _free(self, session_id: str) -> None:
        running = self._planner.running[session_id]
        del self._end_of[session_id]
        self._count_use(running)
        self._planner.apply(
            Changes(
                nodes=self._nodes_with(running, -1),
                removed_running=(session_id,),
                tenants=self._tenants_with(running, -1),
            )
        )

    def _nodes_with(self, running: RunningSession, sign: int) -> tuple[NodeState, ...]:
        nodes: dict[str, NodeState] = {}
        for kernel in running.kernels:
            node = nodes.get(kernel.agent_id) or self._planner.nodes.get(kernel.agent_id)
            if node is not None:
                nodes[kernel.agent_id] = _with_use(node, kernel, sign)
        return tuple(nodes.values())

    def _tenants_with(self, running: RunningSession, sign: int) -> tuple[TenantState, ...]:
        """Those with limits, with what they hold now."""
        changed = []
        for tenant in self._planner.tenants.of(running.owner):
            held = dict(tenant.state.held)
            for kernel in running.kernels:
                for slot, amount in kernel.slots.items():
                    held[slot] = held.get(slot, 0) + sign * amount
            changed.append(replace(tenant.state, held=held, sessions=tenant.state.sessions + sign))
        return tuple(changed)

    def _decay(self) -> None:
        """Brings decayed use up to now: what was used fades by half in each half-life, what is held adds to it."""
        planner = self._planner
        passed, self._decayed_at = self._now - self._decayed_at, self._now
        if not planner.shares or passed <= 0:
            return
        keeps = 2.0 ** (-passed / self._policy.half_life_s)
        gains = self._policy.half_life_s / math.log(2) * (1.0 - keeps)
        changed = []
        for level, account in planner.accounts.items():
            used = {
                slot: account.decayed[place] * keeps + account.held[place] * gains
                for slot, place in planner.place_of.items()
            }
            scope, name = level
            known = planner.tenants.states.get(level) or TenantState(scope, name, weight=account.weight)
            changed.append(replace(known, decayed=used))
        planner.apply(Changes(tenants=tuple(changed)))

    def _count_use(self, running: RunningSession) -> None:
        used = self._used.setdefault(running.owner, {})
        seconds = self._now - max(self._began, running.since)
        for kernel in running.kernels:
            for slot, amount in kernel.slots.items():
                used[slot] = used.get(slot, 0.0) + amount * seconds

    def _timeline(self, passes: int) -> Timeline:
        for running in self._planner.running.values():
            self._count_use(running)
        span = max(self._now - self._began, 1e-9)
        offered = dict(zip(self._planner.place_of, self._planner.offered, strict=True))
        utilisation = {
            slot: sum(used.get(slot, 0.0) for used in self._used.values()) / (whole * span)
            for slot, whole in offered.items()
        }
        waiting = tuple(sorted(self._planner.waiting))
        return Timeline(
            tuple(self._starts), self._ended, waiting, self._used, utilisation, passes, self._now, self._stopped
        )


def _with_use(node: NodeState, kernel: RunningKernel, sign: int) -> NodeState:
    used = dict(node.used)
    for slot, amount in kernel.slots.items():
        used[slot] = used.get(slot, 0) + sign * amount
    if not kernel.devices:
        return replace(node, used=used)
    given = kernel.devices
    devices = tuple(
        replace(one, used=one.used + sign * given[one.device_id]) if one.device_id in given else one
        for one in node.devices
    )
    return replace(node, used=used, devices=devices)
