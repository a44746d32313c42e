"""Who may start at all, whatever room there is. A session that may not never blocks those behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from moorage.domain.resources import format_slot
from moorage.scheduler.snapshot import Cause, Owner, Policy, Scope, TenantState, WaitingSession

Told = tuple[Cause, str]


def barred(session: WaitingSession, policy: Policy, now: float) -> Told | None:
    """What keeps this session itself from starting; of several, the one that a person can do least about."""
    if session.unmet:
        few = ", ".join(session.unmet[:3]) + (", …" if len(session.unmet) > 3 else "")
        return Cause.DEPENDENCY, f"waits for {few} to end well"
    if policy.session_types and session.session_type not in policy.session_types:
        allowed = ", ".join(sorted(policy.session_types))
        return (
            Cause.SESSION_TYPE,
            f"type {session.session_type} is not taken by the resource group (it takes {allowed})",
        )
    if session.not_before > now:
        moment = datetime.fromtimestamp(session.not_before, UTC)
        return Cause.NOT_YET, f"starts at {moment:%Y-%m-%d %H:%M:%S} UTC at the earliest"
    return None


@dataclass(slots=True)
class Tenant:
    """One owner in one scope during a pass: its limits and what it holds, the pass's own placements included."""

    state: TenantState
    sessions: int = 0
    held: dict[str, int] = field(default_factory=dict)

    def reset(self) -> None:
        self.sessions = self.state.sessions
        self.held = dict(self.state.held)

    def add(self, slots: Mapping[str, int]) -> None:
        self.sessions += 1
        for slot, amount in slots.items():
            self.held[slot] = self.held.get(slot, 0) + amount

    def full(self) -> Told | None:
        most = self.state.max_sessions
        if most is None or self.sessions < most:
            return None
        return Cause.CONCURRENCY, f"waits for quota: {self.words} runs {self.sessions} of {most} sessions"

    def over(self, slots: Mapping[str, int]) -> Told | None:
        """The first slot whose limit the request would pass."""
        for slot, most in self.state.max_slots.items():
            asked = slots.get(slot, 0)
            if asked and self.held.get(slot, 0) + asked > most:
                has, limit = format_slot(slot, self.held.get(slot, 0)), format_slot(slot, most)
                message = (
                    f"waits for quota: {self.words} holds {slot} {has} of {limit}, asks {format_slot(slot, asked)}"
                )
                return Cause.SLOT_LIMIT, message
        return None

    @property
    def words(self) -> str:
        return f"{self.state.scope.value} {self.state.name}"


class Tenants:
    """The limits of all owners. Only those that have any are counted."""

    def __init__(self, states: Iterable[TenantState]) -> None:
        self.states = {(state.scope, state.name): state for state in states}
        self._limited = {
            key: Tenant(state)
            for key, state in self.states.items()
            if state.max_sessions is not None or state.max_slots
        }
        self.reset()

    def of(self, owner: Owner) -> tuple[Tenant, ...]:
        """Those of the owner's four scopes that have a limit."""
        if not self._limited:
            return ()
        names = (
            (Scope.KEYPAIR, owner.keypair),
            (Scope.USER, owner.user),
            (Scope.PROJECT, owner.project),
            (Scope.DOMAIN, owner.domain),
        )
        return tuple(self._limited[key] for key in names if key in self._limited)

    def weight(self, *keys: tuple[Scope, str]) -> float:
        """Of the first of these that is known; 1 if none is."""
        return next((self.states[key].weight for key in keys if key in self.states), 1.0)

    def decayed(self, key: tuple[Scope, str]) -> Mapping[str, float]:
        state = self.states.get(key)
        return {} if state is None else state.decayed

    def reset(self) -> None:
        """Forgets what a pass placed."""
        for tenant in self._limited.values():
            tenant.reset()

    def replace(self, states: Iterable[TenantState]) -> bool:
        """Takes new states in; false if limits came or went and all must be read anew."""
        for state in states:
            key = (state.scope, state.name)
            limited = state.max_sessions is not None or bool(state.max_slots)
            if limited != (key in self._limited):
                return False
            self.states[key] = state
            if limited:
                self._limited[key].state = state
        self.reset()
        return True


def limit(tenants: Iterable[Tenant], slots: Mapping[str, int]) -> Told | None:
    """The first limit that one more session with these slots would pass."""
    for tenant in tenants:
        told = tenant.full() or tenant.over(slots)
        if told is not None:
            return told
    return None
