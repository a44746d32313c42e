"""Verbs about projects and their members."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli.admin.asking import (
    Active,
    Admin,
    Deleted,
    Description,
    DryRun,
    First,
    Force,
    listed,
    printed,
    reference,
    removed,
    wish,
)
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Projects of a domain, and who belongs to them.")

Project = Annotated[str, typer.Argument(help="DOMAIN/PROJECT, a name in one's own domain, or an id.")]
User = Annotated[str, typer.Argument(help="The user's e-mail address.")]
Policy = Annotated[str | None, typer.Option(help="The project's resource policy.")]


@app.command()
def ls(
    domain: Annotated[str | None, typer.Option(help="Of this domain only.")] = None,
    deleted: Deleted = False,
    offset: First = 0,
    json: AsJson = False,
) -> None:
    """List projects."""
    listed(
        ["DOMAIN", "PROJECT", "ACTIVE", "MEMBERS", "POLICY", "DESCRIPTION"],
        ["domain", "name", "is_active", "members", "policy", "description"],
        "project",
        json=json,
        offset=offset,
        domain=domain,
        deleted=deleted,
    )


@app.command()
def show(project: Project, json: AsJson = False) -> None:
    """Show a project."""
    printed(Admin().ask("GET", "project", reference(project)), json=json)


@app.command()
def create(
    project: Annotated[str, typer.Argument(help="DOMAIN/PROJECT.")],
    description: Description = None,
    policy: Policy = None,
    json: AsJson = False,
) -> None:
    """Make a project."""
    domain, slash, name = project.partition("/")
    if not slash:
        raise InvalidRequest(f"{project!r} is not DOMAIN/PROJECT")
    body = wish(domain=domain, name=name, description=description, policy=policy)
    printed(Admin().ask("POST", "project", body=body), json=json)


@app.command("set")
def change(
    project: Project,
    description: Description = None,
    active: Active = None,
    policy: Policy = None,
    json: AsJson = False,
) -> None:
    """Change a project; an inactive one takes no new sessions."""
    body = wish(description=description, is_active=active, policy=policy)
    printed(Admin().ask("PATCH", "project", reference(project), body=body), json=json)


@app.command()
def rm(project: Project, dry_run: DryRun = False, force: Force = False, json: AsJson = False) -> None:
    """Delete a project; says what it owned."""
    removed(Admin().ask("DELETE", "project", reference(project), dry_run=dry_run, force=force), json=json)


@app.command()
def purge(project: Project, json: AsJson = False) -> None:
    """Remove what is left of a deleted project for good."""
    removed(Admin().ask("POST", "project", reference(project), "purge"), json=json)


@app.command()
def members(project: Project, offset: First = 0, json: AsJson = False) -> None:
    """List the members of a project."""
    listed(
        ["USER", "NAME", "STATUS", "RANK", "MAIN PROJECT"],
        ["email", "name", "status", "role", "is_main"],
        "project",
        reference(project),
        "member",
        json=json,
        offset=offset,
    )


@app.command()
def add(project: Project, user: User, json: AsJson = False) -> None:
    """Add a user of the same domain to a project."""
    printed(Admin().ask("POST", "project", reference(project), "member", body={"user": user}), json=json)


@app.command()
def remove(project: Project, user: User) -> None:
    """Take a user out of a project; its sessions there go on."""
    Admin().ask("DELETE", "project", reference(project), "member", user)
