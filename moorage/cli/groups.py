"""Verbs about resource groups: list, show, create, set, rm."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.pairs import pairs
from moorage.cli.sessions import AsJson

app = typer.Typer(help="List resource groups, and steer how they decide.")

Name = Annotated[str, typer.Argument(help="The resource group.")]
Policy = Annotated[str | None, typer.Option(help="Who is looked at first, for example fair-share.")]
Selector = Annotated[str | None, typer.Option(help="Which node is taken, for example dispersed.")]
Description = Annotated[str | None, typer.Option(help="For people.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="KEY=VALUE, may be repeated; KEY= goes back to the default.")
]
Domains = Annotated[list[str] | None, typer.Option("--allow-domain", help="May be repeated.")]
Projects = Annotated[list[str] | None, typer.Option("--allow-project", help="DOMAIN/PROJECT, may be repeated.")]
Keypairs = Annotated[list[str] | None, typer.Option("--allow-keypair", help="An access key, may be repeated.")]
Everybody = Annotated[bool, typer.Option("--allow-everybody", help="Empties the lists of who may use it.")]

_LISTS = frozenset({"session_types"})


@app.callback(invoke_without_command=True)
def index(context: typer.Context, json: AsJson = False) -> None:
    """List resource groups, and steer how they decide."""
    if context.invoked_subcommand is not None:
        return None
    items = Client().groups()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["GROUP", "POLICY", "SELECTOR", "HEAD", "PREEMPTION", "AGENTS", "SESSIONS", "PENDING", "DESCRIPTION"],
        [
            (g["name"], g["policy"], g["selector"], g["options"]["head"], g["options"]["preemption"], g["agents"],
             g["sessions"], g["pending"], g["description"])
            for g in items
        ],
    )  # fmt: skip


@app.command("show")
def show_group(name: Name, json: AsJson = False) -> None:
    """Show a group with all its options."""
    _print(Client().group(name), json=json)


@app.command()
def create(
    name: Name,
    policy: Policy = None,
    selector: Selector = None,
    description: Description = None,
    option: Options = None,
    allow_domain: Domains = None,
    allow_project: Projects = None,
    allow_keypair: Keypairs = None,
    json: AsJson = False,
) -> None:
    """Make a group; agents join it with MOORAGE_AGENT_RESOURCE_GROUP."""
    wish = _wish(policy, selector, description, option, allow_domain, allow_project, allow_keypair)
    _print(Client().create_group({"name": name, **wish}), json=json)


@app.command("set")
def change(
    name: Name,
    policy: Policy = None,
    selector: Selector = None,
    description: Description = None,
    option: Options = None,
    allow_domain: Domains = None,
    allow_project: Projects = None,
    allow_keypair: Keypairs = None,
    allow_everybody: Everybody = False,
    json: AsJson = False,
) -> None:
    """Change a group; what isn't named stays as it is, a list that is named is replaced."""
    opened: Json = {"allowed_domains": [], "allowed_projects": [], "allowed_keypairs": []} if allow_everybody else {}
    wish = _wish(policy, selector, description, option, allow_domain, allow_project, allow_keypair)
    _print(Client().change_group(name, opened | wish), json=json)


@app.command()
def rm(name: Name) -> None:
    """Remove a group that has neither agents nor live sessions."""
    Client().remove_group(name)


def _wish(
    policy: str | None,
    selector: str | None,
    description: str | None,
    options: list[str] | None,
    domains: list[str] | None,
    projects: list[str] | None,
    keypairs: list[str] | None,
) -> Json:
    wish: Json = {
        "policy": policy,
        "selector": selector,
        "description": description,
        "options": {name: _value(name, words) for name, words in pairs("--option", options or []).items()} or None,
        "allowed_domains": domains or None,
        "allowed_projects": projects or None,
        "allowed_keypairs": keypairs or None,
    }
    return {name: value for name, value in wish.items() if value is not None}


def _value(name: str, words: str) -> Any:
    """The API reads numbers from words itself; only lists and nothing must be said."""
    if not words:
        return None
    return [word.strip() for word in words.split(",")] if name in _LISTS else words


def _print(group: Json, *, json: bool) -> None:
    if json:
        return show.as_json(group)
    values = {name.replace("_", " "): _plain(value) for name, value in group.items() if name != "options"}
    return show.fields(values | {f"option {name}": _plain(value) for name, value in group["options"].items()})


def _plain(value: object) -> object:
    return ", ".join(value) if isinstance(value, list) else value
