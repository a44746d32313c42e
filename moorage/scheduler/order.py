"""Who is looked at first. Every order is total (the id breaks ties), so a pass doesn't depend on the order of rows.

Higher priority bands come first, whatever the order; it decides inside a band.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from moorage.scheduler.snapshot import Owner, Policy, Scope, WaitingSession

_SECONDS_PER_HOUR = 3600.0

# What is held counts as use for so long ahead, so that what was just given counts at once.
COMMITTED_S = 3600.0

Level = tuple[Scope, str]


@runtime_checkable
class Order(Protocol):
    """An order by a key that stays the same while a session waits."""

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        """Smaller is looked at first."""
        ...


@dataclass(frozen=True, slots=True)
class Account:
    """What an owner holds in this group and used before, per slot of `capacity` (the group's, all above 0)."""

    held: list[int]
    decayed: Sequence[float]
    weight: float


@runtime_checkable
class Sharing(Order, Protocol):
    """An order by what owners have, looked at again after each placement; `key` decides inside one owner."""

    def path(self, owner: Owner) -> tuple[Level, ...]:
        """The levels that are compared one after the other, outermost first."""
        ...

    def burden(self, account: Account, capacity: Sequence[int], policy: Policy) -> float:
        """How much an owner has of its due; the smallest is looked at first."""
        ...


class Fifo:
    """The earlier submitted one."""

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        return (session.submitted,)


class Lifo:
    """The later submitted one."""

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        return (-session.submitted,)


class Priority:
    """As fifo, but waiting raises the priority by `ageing_per_hour`, across bands, so that nothing starves.

    All age alike, so the order of two sessions never changes and the key needs no clock.
    """

    crosses_bands = True

    def key(self, session: WaitingSession, policy: Policy) -> tuple[float, ...]:
        aged = session.priority - policy.ageing_per_hour * session.submitted / _SECONDS_PER_HOUR
        return -aged, session.submitted


class Drf(Fifo):
    """Progressive filling: the user with the smallest dominant share. Source: Ghodsi et al., NSDI 2011, weighted."""

    def path(self, owner: Owner) -> tuple[Level, ...]:
        return ((Scope.USER, owner.user),)

    def burden(self, account: Account, capacity: Sequence[int], policy: Policy) -> float:
        """Largest part of any slot of the group that the user holds, by weight."""
        shares = [held / whole for held, whole in zip(account.held, capacity, strict=True)]
        return max(shares, default=0.0) / account.weight


class FairShare(Fifo):
    """Domain, then project, then the user in that project, by what they used: a newcomer is first."""

    def path(self, owner: Owner) -> tuple[Level, ...]:
        return (
            (Scope.DOMAIN, owner.domain),
            (Scope.PROJECT, owner.project),
            (Scope.USER, f"{owner.user}@{owner.project}"),
        )

    def burden(self, account: Account, capacity: Sequence[int], policy: Policy) -> float:
        """Mean over slots of decayed use as part of capacity × half-life, by weight. `factor` is 2 to its negative."""
        used = zip(account.held, account.decayed, capacity, strict=True)
        total = sum([(decayed + held * COMMITTED_S) / whole for held, decayed, whole in used])
        return total / (policy.half_life_s * max(1, len(capacity)) * account.weight)


def factor(burden: float) -> float:
    """Fair-share factor in (0, 1]; 1 is a newcomer."""
    return float(2.0**-burden)


ORDERS: Mapping[str, Order] = {
    "fifo": Fifo(),
    "lifo": Lifo(),
    "priority": Priority(),
    "drf": Drf(),
    "fair-share": FairShare(),
}
