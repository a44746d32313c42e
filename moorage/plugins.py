"""Orders and selectors by name: the built-in ones, and those that other distributions bring as entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from moorage import log

ORDERS_GROUP = "backendai_scheduler_v10"
SELECTORS_GROUP = "backendai_agentselector_v10"

BUILT_IN_ORDERS = ("fifo", "lifo", "priority", "drf", "fair-share")
BUILT_IN_SELECTORS = ("concentrated", "dispersed", "roundrobin")

_log = log.get("plugins")


def order_names() -> list[str]:
    """Every order that a resource group may take as its policy, built-in ones first."""
    return [*BUILT_IN_ORDERS, *sorted(load_orders())]


def selector_names() -> list[str]:
    """Every selector that a resource group may take, built-in ones first."""
    return [*BUILT_IN_SELECTORS, *sorted(load_selectors())]


def load_orders() -> dict[str, Any]:
    """Name → object of the orders of other distributions."""
    return _loaded(ORDERS_GROUP, BUILT_IN_ORDERS)


def load_selectors() -> dict[str, Any]:
    """Name → object of the selectors of other distributions."""
    return _loaded(SELECTORS_GROUP, BUILT_IN_SELECTORS)


def _loaded(group: str, built_in: tuple[str, ...]) -> dict[str, Any]:
    """A built-in name can't be taken over. A plug-in that fails to load is left out and logged: others must work on."""
    found: dict[str, Any] = {}
    for point in entry_points(group=group):
        if point.name in built_in:
            continue
        try:
            found[point.name] = point.load()
        except Exception as error:
            _log.error("plug-in not loaded", group=group, name=point.name, value=point.value, error=str(error)[:200])
    return found
