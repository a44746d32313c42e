"""Verbs about key pairs."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli.admin.asking import Active, Admin, First, listed, printed, wish
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Key pairs: how programs say who they are.")

AccessKey = Annotated[str, typer.Argument(help="The access key.")]
User = Annotated[str | None, typer.Option(help="The user's e-mail address.")]
_NONE = "none"


@app.command()
def ls(user: User = None, offset: First = 0, json: AsJson = False) -> None:
    """List key pairs."""
    listed(
        ["ACCESS KEY", "USER", "ACTIVE", "MAIN", "POLICY", "REQUESTS IN 15 M", "LAST USED"],
        ["access_key", "user", "is_active", "is_main", "policy", "rate_limit", "last_used_at"],
        "keypair",
        json=json,
        offset=offset,
        user=user,
    )


@app.command()
def show(access_key: AccessKey, json: AsJson = False) -> None:
    """Show a key pair."""
    printed(Admin().ask("GET", "keypair", access_key), json=json)


@app.command()
def create(user: User = None, json: AsJson = False) -> None:
    """Make a key pair, one's own by default; its secret key is shown this once."""
    printed(Admin().ask("POST", "keypair", body=wish(user=user)), json=json)


@app.command("set")
def change(
    access_key: AccessKey,
    active: Active = None,
    main: Annotated[
        bool | None, typer.Option("--main/--not-main", help="The one that the user's work counts for.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The key pair's resource policy.")] = None,
    rate_limit: Annotated[str | None, typer.Option(help="Requests in 15 minutes, or none.")] = None,
    json: AsJson = False,
) -> None:
    """Change a key pair."""
    body = wish(is_active=active, is_main=main, policy=policy)
    if rate_limit is not None:
        body["rate_limit"] = _count(rate_limit)
    printed(Admin().ask("PATCH", "keypair", access_key, body=body), json=json)


@app.command()
def rm(access_key: AccessKey) -> None:
    """Delete a key pair; running sessions go on."""
    Admin().ask("DELETE", "keypair", access_key)


def _count(words: str) -> int | None:
    if words != _NONE and not words.isdecimal():
        raise InvalidRequest(f"--rate-limit {words!r} is neither a number nor none")
    return None if words == _NONE else int(words)
