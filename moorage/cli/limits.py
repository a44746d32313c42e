"""Verbs about limits: list, set, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.ceilings import (
    FIELDS,
    HEADINGS,
    OPTIONS,
    Amounts,
    Count,
    DryRun,
    Hosts,
    Number,
    Percent,
    Rate,
    Span,
    cells,
    kept_slots,
    lines,
    written,
)
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson
from moorage.scheduler.snapshot import Scope

app = typer.Typer(help="List and set what owners may have at once, and their weights.")

Owner = Annotated[str, typer.Argument(help="An access key, an e-mail address, DOMAIN/PROJECT or a domain.")]
Whose = Annotated[Scope, typer.Argument(help="What the name means.")]


@app.callback(invoke_without_command=True)
def index(context: typer.Context, json: AsJson = False) -> None:
    """List and set what owners may have at once, and their weights."""
    if context.invoked_subcommand is not None:
        return None
    items = Client().limits()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["SCOPE", "NAME", *HEADINGS, "WEIGHT"],
        [(one["scope"], one["name"], *cells(one), f"{one['weight']:g}") for one in items],
    )


@app.command("set")
def change(
    scope: Whose,
    name: Owner,
    max_sessions: Count = None,
    max: Amounts = None,
    max_pending: Count = None,
    max_pending_slot: Amounts = None,
    max_containers: Count = None,
    max_priority: Count = None,
    max_job_priority: Number = None,
    max_lifetime: Span = None,
    idle_timeout: Span = None,
    idle_cpu: Percent = None,
    idle_device: Percent = None,
    idle_net: Rate = None,
    idle_grace: Span = None,
    idle_dry_run: DryRun = None,
    allow_folder_host: Hosts = None,
    weight: Annotated[float | None, typer.Option(help="Share that is due; more than 0.")] = None,
    json: AsJson = False,
) -> None:
    """Set an owner's limits; what isn't named stays as it is."""
    client = Client()
    now = next((one for one in client.limits() if (one["scope"], one["name"]) == (scope, name)), {})
    kept = {field: now[field] for field in (*FIELDS, "weight") if field in now} | kept_slots(now)
    given = written(now, **_named(locals()))
    wish = {"weight": 1.0, **kept, **given} | ({} if weight is None else {"weight": weight})
    limit = client.put_limit(scope, name, wish)
    if json:
        return show.as_json(limit)
    return show.fields(lines(limit))


@app.command()
def rm(scope: Whose, name: Owner) -> None:
    """Remove an owner's limits: its policy alone holds, and its weight is 1 again."""
    Client().remove_limit(scope, name)


def _named(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in OPTIONS}
