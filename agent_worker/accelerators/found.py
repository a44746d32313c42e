"""The accelerators of this node, by entry point. Built-in ones are registered as those of others are."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from moorage import log
from moorage.contracts.accelerators import Accelerator
from moorage.domain.errors import MoorageError
from moorage.settings import Settings

GROUP = "moorage_accelerator_v1"
BUILT_IN = {
    "cuda": "agent_worker.accelerators.cuda:from_settings",
    "simulated": "agent_worker.accelerators.simulated:from_settings",
}

_log = log.get("accelerators")


def accelerators(settings: Settings) -> dict[str, Accelerator]:
    """By name. A plug-in that fails to load is left out and logged: the others must work on."""
    found = {point.name: _made(point, settings) for point in points()}
    return {name: one for name, one in found.items() if one is not None}


def points() -> list[EntryPoint]:
    """Built-in ones first; their names can't be taken over."""
    others = [point for point in entry_points(group=GROUP) if point.name not in BUILT_IN]
    own = [EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items()]
    return own + sorted(others, key=lambda point: point.name)


def _made(point: EntryPoint, settings: Settings) -> Accelerator | None:
    try:
        made: Accelerator | None = point.load()(settings)
        return made
    except MoorageError:
        raise  # a setting that somebody wrote wrongly: said at the start, not hidden
    except Exception as error:
        _log.error("plug-in not loaded", group=GROUP, name=point.name, value=point.value, error=str(error)[:200])
        return None
