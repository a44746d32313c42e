"""One scheduling pass as a pure function."""

from __future__ import annotations

from collections.abc import Mapping

from moorage.scheduler.order import ORDERS, Order
from moorage.scheduler.planner import Planner
from moorage.scheduler.score import SELECTORS, Selector
from moorage.scheduler.snapshot import Decisions, Policy, Snapshot


def decide(
    snapshot: Snapshot,
    policy: Policy,
    *,
    orders: Mapping[str, Order] = ORDERS,
    selectors: Mapping[str, Selector] = SELECTORS,
) -> Decisions:
    """Who starts where, and why the others don't. No clock, no randomness, no I/O."""
    return Planner(snapshot, policy, orders=orders, selectors=selectors).decide_last()
