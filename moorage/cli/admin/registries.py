"""Verbs about registries that ask who one is: ls, add, rm. A password is no argument."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest

app = typer.Typer(help="Keep the credentials that nodes pull with.", no_args_is_help=True)

Host = Annotated[str, typer.Argument(help="As images name it: registry.example, 10.0.0.5:5000, docker.io.")]


@app.command()
def ls(json: AsJson = False) -> None:
    """List the registries that have credentials; never the passwords."""
    items = Client().registries()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["REGISTRY", "USER", "SET BY", "MODIFIED"],
        [(one["host"], one["username"], one["created_by"], show.age(one["modified_at"])) for one in items],
    )


@app.command()
def add(
    host: Host,
    username: Annotated[str, typer.Option("--user", "-u", help="User name there.")],
    json: AsJson = False,
) -> None:
    """Set a registry's credentials; the password or token comes from standard input or a prompt."""
    shown = Client().put_registry(host, {"username": username, "password": _password(host)})
    if json:
        return show.as_json(shown)
    return show.note(f"nodes pull from {shown['host']} as {shown['username']}")


@app.command()
def rm(host: Host) -> None:
    """Remove a registry's credentials."""
    Client().remove_registry(host)


def _password(host: str) -> str:
    asked = sys.stdin.isatty()
    password = getpass.getpass(f"password for {host}: ") if asked else sys.stdin.read().removesuffix("\n")
    if not password:
        raise InvalidRequest("the password is empty")
    return password
