"""Who is looked at first. Every order is total (the id breaks ties), so a pass doesn't depend on the order of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from moorage.scheduler.snapshot import Policy, WaitingSession

_SECONDS_PER_HOUR = 3600.0


def fifo(waiting: Iterable[WaitingSession], policy: Policy, now: float) -> list[WaitingSession]:
    """Higher priority band first, inside it the earlier submitted one."""
    return sorted(waiting, key=lambda s: (-s.priority, s.submitted, s.session_id))


def priority(waiting: Iterable[WaitingSession], policy: Policy, now: float) -> list[WaitingSession]:
    """As fifo, but waiting raises the priority by `ageing_per_hour`, so that nothing starves."""

    def aged(session: WaitingSession) -> float:
        return session.priority + policy.ageing_per_hour * max(0.0, now - session.submitted) / _SECONDS_PER_HOUR

    return sorted(waiting, key=lambda s: (-aged(s), s.submitted, s.session_id))


ORDERS: dict[str, Callable[[Iterable[WaitingSession], Policy, float], list[WaitingSession]]] = {
    "fifo": fifo,
    "priority": priority,
}
