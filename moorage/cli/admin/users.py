"""Verbs about users."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from moorage.cli.admin.asking import Admin, Description, DryRun, First, Force, listed, printed, removed, wish
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest
from moorage.domain.tenancy import Rank

app = typer.Typer(no_args_is_help=True, help="Users, and what lets them in.")

User = Annotated[str, typer.Argument(help="The user's e-mail address, or its id.")]
Projects = Annotated[list[str] | None, typer.Option("--project", help="May be repeated; the first is the main one.")]
Rank_ = Annotated[Rank | None, typer.Option("--rank", help="What the user is.")]
Policy = Annotated[str | None, typer.Option(help="The user's resource policy.")]
Status = Annotated[str | None, typer.Option(help="active, inactive or before-verification.")]
Networks = Annotated[list[str] | None, typer.Option("--from", help="A network it may come from, may be repeated.")]
NamedAs = Annotated[str | None, typer.Option(help="Short name.")]
FullName = Annotated[str | None, typer.Option(help="Full name.")]


@app.command()
def ls(
    domain: Annotated[str | None, typer.Option(help="Of this domain only.")] = None,
    project: Annotated[str | None, typer.Option(help="Members of this project only.")] = None,
    status: Annotated[str | None, typer.Option(help="For example deleted.")] = None,
    email: Annotated[str | None, typer.Option(help="A part of the address.")] = None,
    offset: First = 0,
    json: AsJson = False,
) -> None:
    """List users."""
    listed(
        ["USER", "NAME", "STATUS", "RANK", "DOMAIN", "PROJECTS"],
        ["email", "full_name", "status", "role", "domain", "projects"],
        "user",
        json=json,
        offset=offset,
        domain=domain,
        project=project,
        status=status,
        email=email,
    )


@app.command()
def show(user: User, json: AsJson = False) -> None:
    """Show a user."""
    printed(Admin().ask("GET", "user", user), json=json)


@app.command()
def create(
    email: Annotated[str, typer.Argument(help="E-mail address.")],
    domain: Annotated[str, typer.Option(help="Its domain.")] = "default",
    project: Projects = None,
    name: NamedAs = None,
    full_name: FullName = None,
    description: Description = None,
    rank: Rank_ = None,
    policy: Policy = None,
    come_from: Networks = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for one; from a pipe, its first line.")] = False,
    keypair: Annotated[bool, typer.Option("--keypair/--no-keypair", help="Make a key pair too.")] = True,
    json: AsJson = False,
) -> None:
    """Make a user; the secret key is shown this once."""
    body = wish(
        email=email,
        domain=domain,
        projects=project,
        name=name,
        full_name=full_name,
        description=description,
        role=rank,
        policy=policy,
        allowed_client_ip=come_from,
        password=_password() if password else None,
        need_password_change=True if password else None,
        keypair=keypair,
    )
    made = Admin().ask("POST", "user", body=body)
    if not json:
        pair = made.pop("keypair") or {}
        made = {**made, **pair}
    printed(made, json=json)


@app.command("set")
def change(
    user: User,
    name: NamedAs = None,
    full_name: FullName = None,
    description: Description = None,
    project: Annotated[str | None, typer.Option(help="The main project, one of its own.")] = None,
    rank: Rank_ = None,
    status: Status = None,
    policy: Policy = None,
    come_from: Networks = None,
    from_anywhere: Annotated[bool, typer.Option("--from-anywhere", help="Empties the list of networks.")] = False,
    json: AsJson = False,
) -> None:
    """Change a user; what isn't named stays as it is."""
    body = wish(
        name=name,
        full_name=full_name,
        description=description,
        project=project,
        role=rank,
        status=status,
        policy=policy,
        allowed_client_ip=[] if from_anywhere else come_from,
    )
    printed(Admin().ask("PATCH", "user", user, body=body), json=json)


@app.command()
def rm(user: User, dry_run: DryRun = False, force: Force = False, json: AsJson = False) -> None:
    """Delete a user with its keys, tokens and log-ins; says what it owned."""
    removed(Admin().ask("DELETE", "user", user, dry_run=dry_run, force=force), json=json)


@app.command()
def purge(user: User, json: AsJson = False) -> None:
    """Remove all that is personal of a deleted user for good."""
    removed(Admin().ask("POST", "user", user, "purge"), json=json)


@app.command()
def passwd(
    user: User,
    keep: Annotated[bool, typer.Option("--keep", help="It need not be changed at the next log-in.")] = False,
    none: Annotated[bool, typer.Option("--none", help="Take the password away.")] = False,
) -> None:
    """Give a user another password; asks for it, or reads the first line of a pipe."""
    password = None if none else _password()
    Admin().ask("POST", "user", user, "password", body={"password": password, "need_change": not keep})


@app.command()
def key(user: User, json: AsJson = False) -> None:
    """Make a key pair of a user; its secret key is shown this once."""
    printed(Admin().ask("POST", "keypair", body={"user": user}), json=json)


@app.command()
def unlock(user: User) -> None:
    """Forget a user's wrong passwords."""
    Admin().ask("POST", "user", user, "unlock")


@app.command("reset-totp")
def reset_totp(user: User) -> None:
    """Remove a user's second factor, for one who lost it."""
    Admin().ask("DELETE", "user", user, "totp")


def _password() -> str:
    """Never an argument: those stand in the list of processes."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    first = getpass.getpass("password: ")
    if getpass.getpass("once more: ") != first:
        raise InvalidRequest("the two passwords differ")
    return first
