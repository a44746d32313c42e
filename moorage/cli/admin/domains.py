"""Verbs about domains."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli.admin.asking import Active, Admin, Deleted, Description, DryRun, First, listed, printed, removed, wish
from moorage.cli.sessions import AsJson

app = typer.Typer(no_args_is_help=True, help="Domains, the outermost tenants.")

Name = Annotated[str, typer.Argument(help="The domain.")]
Registries = Annotated[list[str] | None, typer.Option("--registry", help="An allowed registry, may be repeated.")]


@app.command()
def ls(deleted: Deleted = False, offset: First = 0, json: AsJson = False) -> None:
    """List domains."""
    listed(
        ["DOMAIN", "ACTIVE", "PROJECTS", "USERS", "DESCRIPTION"],
        ["name", "is_active", "projects", "users", "description"],
        "domain",
        json=json,
        offset=offset,
        deleted=deleted,
    )


@app.command()
def show(name: Name, json: AsJson = False) -> None:
    """Show a domain."""
    printed(Admin().ask("GET", "domain", name), json=json)


@app.command()
def create(name: Name, description: Description = None, registry: Registries = None, json: AsJson = False) -> None:
    """Make a domain."""
    body = wish(name=name, description=description, allowed_registries=registry)
    printed(Admin().ask("POST", "domain", body=body), json=json)


@app.command("set")
def change(
    name: Name,
    description: Description = None,
    active: Active = None,
    registry: Registries = None,
    every_registry: Annotated[bool, typer.Option("--every-registry", help="Allow all again.")] = False,
    json: AsJson = False,
) -> None:
    """Change a domain; nobody of an inactive one gets in."""
    body = wish(description=description, is_active=active, allowed_registries=[] if every_registry else registry)
    printed(Admin().ask("PATCH", "domain", name, body=body), json=json)


@app.command()
def rm(name: Name, dry_run: DryRun = False, json: AsJson = False) -> None:
    """Delete a domain without users and projects; says what it owned."""
    removed(Admin().ask("DELETE", "domain", name, dry_run=dry_run), json=json)


@app.command()
def purge(name: Name, json: AsJson = False) -> None:
    """Remove what is left of a deleted domain for good."""
    removed(Admin().ask("POST", "domain", name, "purge"), json=json)
