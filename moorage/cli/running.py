"""Verbs about a session that runs: resize, restart, commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.pairs import pairs
from moorage.cli.sessions import FAILED, INTERRUPTED, AsJson, Ref, gpus, how_it_ended
from moorage.cli.wait import Watch, is_over
from moorage.domain.errors import InvalidRequest
from moorage.domain.session import SessionStatus


def resize(
    ref: Ref,
    cpu: Annotated[str | None, typer.Option(help="Cores, for example 2, 0.5 or 500m.")] = None,
    mem: Annotated[str | None, typer.Option(help="Memory, for example 1g.")] = None,
    gpu: Annotated[str | None, typer.Option(help="GPUs, for example 2, 0.5 or 0; it restarts in its place.")] = None,
    slot: Annotated[list[str] | None, typer.Option(help="NAME=AMOUNT of another resource, may be repeated.")] = None,
    move: Annotated[bool, typer.Option("--move", help="Start anew elsewhere, where its node has no room.")] = False,
    json: AsJson = False,
) -> None:
    """Give a running session more or less. Cores and memory change as it runs; what is not named stays."""
    # Whole ones in place of a part, or the other way round: one of the two is given up.
    devices = {} if gpu is None else {"cuda.device": "0", "cuda.shares": "0", **gpus(gpu)}
    resources = {"cpu": cpu, "mem": mem, **devices, **pairs("--slot", slot or [])}
    wanted = {name: amount for name, amount in resources.items() if amount is not None}
    if not wanted:
        raise InvalidRequest("say what it is to have", hint=f"moor resize {ref} --cpu 2 --mem 1g")
    _follow(ref, lambda client: client.resize(ref, {"resources": wanted, "move": move}), json=json)


def restart(ref: Ref, json: AsJson = False) -> None:
    """Start a running session anew in its place: same id, same node, same resources, new containers."""
    _follow(ref, lambda client: client.restart(ref), json=json)


def commit(
    ref: Ref,
    image: Annotated[str, typer.Argument(help="NAME or NAME:TAG of the image.")],
    json: AsJson = False,
) -> None:
    """Make an image of a running session, which goes on. It is on that session's node alone."""
    made = Client().commit(ref, image)
    if json:
        return show.as_json(made)
    print(made["image"])
    if not made.get("answered", True):
        return show.note(f"it is still being made, on node {made['agent']}")
    return show.note(f"on node {made['agent']}, {made['bytes'] / 1e6:.0f} MB; your variables and secrets are not in it")


def _follow(ref: str, ask: Callable[[Client], Json], *, json: bool) -> None:
    """Asks, and tells each step until it runs again."""
    client = Client()
    told = 0 if json else len(client.events(ref))
    try:
        session = ask(client)
        if not session.get("answered", True):
            show.note(f"{session['name']} is still at it; its steps: moor events {session['name']}")
        extra = {name: session[name] for name in ("restarted", "moved", "answered") if name in session}
        session = Watch(client, session, quiet=json, told=told).until(SessionStatus.RUNNING)
    except KeyboardInterrupt:
        show.note(f"\ndetached; what was asked is done all the same. Its steps: moor events {ref}")
        raise typer.Exit(INTERRUPTED) from None
    if json:
        show.as_json(session | extra)
    else:
        print(how_it_ended(session) if is_over(session) else _how_it_runs(session))
    if is_over(session):
        raise typer.Exit(FAILED)


def _how_it_runs(session: Json) -> str:
    """`mine runs with cpu 2, mem 1 GiB on n1, attempt 1`."""
    words = f"{session['name']} runs with {show.slots(session['slots'])} on {session['agent']}"
    return f"{words}, attempt {session['attempt']}"
