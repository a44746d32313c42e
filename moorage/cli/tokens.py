"""Verbs about personal access tokens: create, ls, rm."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.seconds import parse_seconds
from moorage.cli.sessions import AsJson

app = typer.Typer(help="Make, list and revoke personal access tokens.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    permission: Annotated[
        list[str], typer.Option("--permission", "-p", help="ENTITY:OPERATION, * for every one; may be repeated.")
    ],
    expires_in: Annotated[str, typer.Option(help="At most 365d.")] = "30d",
    json: AsJson = False,
) -> None:
    """Make a token, and print it: it is never shown again."""
    wish = {"name": name, "permissions": permission, "expires_in_s": parse_seconds(expires_in)}
    made = Client().create_token(wish)
    if json:
        return show.as_json(made)
    show.note(f"{made['id']} until {made['expires_at']}: {', '.join(made['permissions'])}")
    return print(made["token"])


@app.command()
def ls(json: AsJson = False) -> None:
    """List the tokens that still count."""
    found = Client().tokens()
    items = found["items"]
    if json:
        return show.as_json(found)
    if found["total"] > len(items):
        show.note(f"the newest {len(items)} of {found['total']}")
    return show.table(
        ["ID", "NAME", "USER", "EXPIRES", "LAST USED", "PERMISSIONS"],
        [
            (one["id"], one["name"], one["user"], one["expires_at"], one["last_used_at"], " ".join(one["permissions"]))
            for one in items
        ],
    )


@app.command()
def rm(token_id: Annotated[str, typer.Argument(help="As `moor token ls` shows it.")]) -> None:
    """Revoke a token, at once."""
    Client().revoke_token(token_id)
