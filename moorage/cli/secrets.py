"""Verbs about secrets: list, set, rm. A value comes from standard input, a file or a prompt; never as an argument."""

from __future__ import annotations

import base64
import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest
from moorage.domain.secrets import LARGEST_BYTES

app = typer.Typer(help="Keep secrets for sessions: set, list by name, remove.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Letters, digits, '_', '.' and '-', beginning with a letter or '_'.")]
Project = Annotated[str | None, typer.Option(help="Of this project (DOMAIN/NAME or NAME) instead of one's own.")]


@app.command("set")
def change(
    name: Name,
    project: Project = None,
    file: Annotated[Path | None, typer.Option(help="Take its content, as it is.")] = None,
    json: AsJson = False,
) -> None:
    """Set a secret, from standard input (one newline at its end is left out), a file, or a prompt."""
    shown = Client().put_secret(name, _body(_value(name, file), project))
    if json:
        return show.as_json(shown)
    return show.note(f"{shown['name']} of {shown['owner']} is set: moor run --secret {shown['name']} …")


@app.command()
def ls(json: AsJson = False) -> None:
    """List one's secrets and those of one's projects; never their values."""
    items = Client().secrets()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["NAME", "SCOPE", "OWNER", "SET BY", "CREATED", "MODIFIED"],
        [
            (one["name"], one["scope"], one["owner"], one["created_by"], show.age(one["created_at"]),
             show.age(one["modified_at"]))
            for one in items
        ],
    )  # fmt: skip


@app.command()
def rm(
    name: Name,
    project: Project = None,
    force: Annotated[bool, typer.Option("--force", help="Though live sessions use it; waiting ones lack it.")] = False,
) -> None:
    """Remove a secret."""
    Client().remove_secret(name, project=project, force=force)


def _value(name: str, file: Path | None) -> bytes:
    if file is not None:
        content = file.read_bytes()
    elif sys.stdin.isatty():
        content = getpass.getpass(f"value of {name}: ").encode()
    else:
        content = sys.stdin.buffer.read(LARGEST_BYTES + 2).removesuffix(b"\n")
    if not content or len(content) > LARGEST_BYTES:
        raise InvalidRequest(f"the value has {len(content)} bytes; 1 to {LARGEST_BYTES} are allowed")
    return content


def _body(content: bytes, project: str | None) -> Json:
    body: Json = {"value": base64.b64encode(content).decode(), "encoding": "base64"}
    return body | ({"project": project} if project else {})
