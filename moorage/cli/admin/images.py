"""Verbs about which images may run: ls, allow, disallow."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import images, show
from moorage.cli.client import Client

app = typer.Typer(help="Say which images may run, by patterns. Without any, every image may.", no_args_is_help=True)

Pattern = Annotated[str, typer.Argument(help="python:*, team/* or registry.example/team/*; without a tag: every tag.")]
Domain = Annotated[str | None, typer.Option(help="In this domain; everywhere by default.")]

app.command("ls")(images.allowed)


@app.command()
def allow(pattern: Pattern, domain: Domain = None) -> None:
    """Allow images; with the first pattern all that none matches is refused."""
    Client().allow_images(pattern, domain)
    show.note(f"{pattern} may run {f'in domain {domain}' if domain else 'everywhere'}")


@app.command()
def disallow(pattern: Pattern, domain: Domain = None) -> None:
    """Take a pattern away; what runs goes on."""
    Client().disallow_images(pattern, domain)
