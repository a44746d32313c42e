"""Verbs about resource policies: ls, show, create, set, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.ceilings import (
    HEADINGS,
    IDLE,
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
    lines,
    written,
)
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson
from moorage.domain.tenancy import PolicyKind

app = typer.Typer(help="What key pairs, users and projects may have, under a name.", no_args_is_help=True)

Kind = Annotated[PolicyKind, typer.Argument(help="Whom it is for.")]
Name = Annotated[str, typer.Argument(help="The policy's name.")]
Description = Annotated[str | None, typer.Option(help="In a few words.")]


@app.command()
def ls(
    kind: Annotated[PolicyKind | None, typer.Argument(help="Only those for these.")] = None, json: AsJson = False
) -> None:
    """List resource policies, with how many carry each."""
    items = Client().policies(kind)
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["KIND", "NAME", "USED BY", *HEADINGS, "DESCRIPTION"],
        [(one["kind"], one["name"], one["used_by"], *cells(one), one["description"]) for one in items],
    )


@app.command("show")
def show_policy(kind: Kind, name: Name, json: AsJson = False) -> None:
    """Show one resource policy."""
    policy = Client().policy(kind, name)
    return show.as_json(policy) if json else show.fields(lines(policy))


@app.command()
def create(
    kind: Kind,
    name: Name,
    description: Description = None,
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
    json: AsJson = False,
) -> None:
    """Make a resource policy; what isn't named is unlimited."""
    policy = Client().create_policy({"kind": kind, "name": name, **_fields({}, locals())})
    return show.as_json(policy) if json else show.fields(lines(policy))


@app.command("set")
def change(
    kind: Kind,
    name: Name,
    description: Description = None,
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
    json: AsJson = False,
) -> None:
    """Change a resource policy; what isn't named stays as it is."""
    client = Client()
    given = locals()
    merged = max or max_pending_slot or any(given[one] is not None for one in IDLE)
    policy = client.change_policy(kind, name, _fields(client.policy(kind, name) if merged else {}, given))
    return show.as_json(policy) if json else show.fields(lines(policy))


@app.command()
def rm(kind: Kind, name: Name) -> None:
    """Remove a resource policy that nobody carries."""
    Client().remove_policy(kind, name)


def _fields(now: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    described = {} if given["description"] is None else {"description": given["description"]}
    return described | written(now, **{name: given[name] for name in OPTIONS})
