"""Orders and selectors by name. Built-in ones are registered by the same entry points as those of others."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from moorage import log
from moorage.scheduler.order import ORDERS, Order
from moorage.scheduler.score import SELECTORS, Selector

ORDERS_GROUP = "backendai_scheduler_v10"
SELECTORS_GROUP = "backendai_agentselector_v10"

_log = log.get("plugins")


def order_names() -> list[str]:
    """Every order that a resource group may take as its policy, built-in ones first."""
    return list(orders())


def selector_names() -> list[str]:
    """Every selector that a resource group may take, built-in ones first."""
    return list(selectors())


@cache
def orders() -> Mapping[str, Order]:
    return {**ORDERS, **_others(ORDERS_GROUP, ORDERS)}


@cache
def selectors() -> Mapping[str, Selector]:
    return {**SELECTORS, **_others(SELECTORS_GROUP, SELECTORS)}


def _others(group: str, built_in: Mapping[str, Any]) -> dict[str, Any]:
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
