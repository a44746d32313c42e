"""`moor bench`: Moorage against its bare parts, both sides in one run. The last line is a JSON object."""

from __future__ import annotations

import typer

from moorage.cli.bench import api, lifecycle, schedule, sessions

app = typer.Typer(no_args_is_help=True, help="Benchmarks against the bare parts; the last line is a JSON object.")
for _verb in (sessions.start, sessions.stop, lifecycle.lifecycle, api.api, schedule.schedule):
    app.command()(_verb)
