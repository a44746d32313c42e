"""`moor bench`: Moorage against its bare parts, both sides in one run. The last line is a JSON object."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

# A verb, and the module that has it as a function of that name.
_VERBS = {
    "start": "sessions",
    "stop": "sessions",
    "lifecycle": "lifecycle",
    "api": "api",
    "schedule": "schedule",
    "node": "node",
}


class _Benchmarks(TyperGroup):
    """Loaded when they are asked for: what they measure takes longer to import than all the rest of `moor`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*_VERBS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _VERBS:
            return None
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(getattr(import_module(f"{__name__}.{_VERBS[cmd_name]}"), cmd_name))
        return typer.main.get_command(alone)


app = typer.Typer(
    cls=_Benchmarks, no_args_is_help=True, help="Benchmarks against the bare parts; the last line is a JSON object."
)
