"""Verbs about nodes: list, cordon, uncordon, drain."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.domain.resources import SHARES_OF_A_DEVICE, is_shares

app = typer.Typer(help="List the nodes; cordon and drain them.")

Name = Annotated[str, typer.Argument(help="The agent's id.")]


@app.callback(invoke_without_command=True)
def index(context: typer.Context, json: AsJson = False) -> None:
    """List the nodes; cordon and drain them."""
    if context.invoked_subcommand is not None:
        return None
    items = Client().agents()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["AGENT", "STATUS", "GROUP", "RUNTIME", "ARCH", "USED", "DEVICES IN USE", "SESSIONS", "SEEN"],
        [
            (a["id"], _status(a), a["resource_group"], a["runtime"], a["architecture"], _used(a["slots"] or {}),
             _devices(a.get("devices") or []), a["sessions"],
             f"{show.age(a['last_seen'])} ago" if a["last_seen"] else "")
            for a in items
        ],
    )  # fmt: skip


@app.command()
def cordon(name: Name, json: AsJson = False) -> None:
    """Place nothing new on a node; what runs there goes on."""
    _say(Client().set_schedulable(name, schedulable=False), json=json)


@app.command()
def uncordon(name: Name, json: AsJson = False) -> None:
    """Place sessions on a node again."""
    _say(Client().set_schedulable(name, schedulable=True), json=json)


@app.command()
def drain(name: Name, json: AsJson = False) -> None:
    """Cordon a node and ask its sessions to move; `moor agents` shows how many are left."""
    _say(Client().drain(name), json=json)


def _say(agent: Json, *, json: bool) -> None:
    if json:
        show.as_json(agent)
    else:
        print(f"{agent['id']} {_status(agent)}, sessions: {agent['sessions']}")


def _status(agent: Json) -> str:
    return str(agent["status"]) if agent.get("schedulable", True) else f"{agent['status']}, cordoned"


def _used(slots: Json) -> str:
    return ", ".join(
        f"{name} {show.slot(name, amounts['used'])} of {show.slot(name, amounts['capacity'])}"
        for name, amounts in slots.items()
    )


def _devices(devices: list[Json]) -> str:
    """`gpu0 0.5 of cuda.shares, gpu3 unhealthy`: those that are in use or sick."""
    words = []
    for device in devices:
        used = device["used"] / (SHARES_OF_A_DEVICE if is_shares(device["slot"]) else 1)
        if used or not device["healthy"]:
            words.append(f"{device['id']} {f'{used:g}' if device['healthy'] else 'unhealthy'}")
    return ", ".join(words)
