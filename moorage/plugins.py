"""Orders and selectors by name: the built-in ones, and those that other distributions bring as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from moorage import log
from moorage.scheduler.order import ORDERS, Order
from moorage.scheduler.score import SELECTORS, Selector

ORDERS_GROUP = "backendai_scheduler_v10"
SELECTORS_GROUP = "backendai_agentselector_v10"

_log = log.get("plugins")


def load_orders() -> dict[str, Order]:
    """Every order that a resource group may take as its policy, built-in ones first."""
    return {**ORDERS, **_loaded(ORDERS_GROUP, ORDERS)}


def load_selectors() -> dict[str, Selector]:
    """Every selector that a resource group may take, built-in ones first."""
    return {**SELECTORS, **_loaded(SELECTORS_GROUP, SELECTORS)}


def order_names() -> list[str]:
    return list(load_orders())


def selector_names() -> list[str]:
    return list(load_selectors())


def _loaded(group: str, built_in: Mapping[str, object]) -> dict[str, Any]:
    """A built-in name can't be taken over. A plug-in that fails to load is left out and logged: others must work on."""
    found: dict[str, Any] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        if point.name in built_in:
            continue
        try:
            found[point.name] = point.load()()
        except Exception as error:
            _log.error("plug-in not loaded", group=group, name=point.name, value=point.value, error=str(error)[:200])
    return found
