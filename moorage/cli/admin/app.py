"""`moor admin`: what administrators do, one noun each."""

from __future__ import annotations

import typer

from moorage.cli import policies

admin = typer.Typer(help="Administer policies.", no_args_is_help=True)
admin.add_typer(policies.app, name="policy")
