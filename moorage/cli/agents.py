"""Verbs about nodes: list, show, cordon, uncordon, drain, rm."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.domain.errors import NotFound
from moorage.domain.resources import MEM, SHARES_OF_A_DEVICE, is_shares

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


@app.command("show")
def one(name: Name, json: AsJson = False) -> None:
    """Show a node with each of its devices: model, memory, NUMA node, use and health."""
    agent = next((agent for agent in Client().agents() if agent["id"] == name), None)
    if agent is None:
        raise NotFound(f"there is no agent {name[:64]!r}", code="unknown-agent", hint="moor agents lists them")
    if json:
        return show.as_json(agent)
    show.fields(
        {"agent": agent["id"], "status": _status(agent), "group": agent["resource_group"],
         "used": _used(agent["slots"] or {}), "sessions": agent["sessions"],
         **({"warnings": "; ".join(agent["warnings"])} if agent.get("warnings") else {})}
    )  # fmt: skip
    if not agent["devices"]:
        return None
    print()
    return show.table(
        ["DEVICE", "SLOT", "MODEL", "MEMORY", "NUMA", "USED", "HEALTH"], [_device(one) for one in agent["devices"]]
    )


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


@app.command()
def rm(name: Name, json: AsJson = False) -> None:
    """Remove a lost node that is gone for good; it comes back if its agent ever starts again."""
    Client().remove_agent(name)
    if json:
        show.as_json({"removed": name})
    else:
        print(f"{name} is removed")


def _say(agent: Json, *, json: bool) -> None:
    if json:
        show.as_json(agent)
    else:
        print(f"{agent['id']} {_status(agent)}, sessions: {agent['sessions']}")


def _status(agent: Json) -> str:
    words = [str(agent["status"])]
    if not agent.get("schedulable", True):
        words.append("cordoned")
    if agent.get("warnings"):
        words.append("see moor agents show")
    return ", ".join(words)


def _used(slots: Json) -> str:
    return ", ".join(
        f"{name} {show.slot(name, amounts['used'])} of {show.slot(name, amounts['capacity'])}"
        for name, amounts in slots.items()
    )


def _device(device: Json) -> list[object]:
    health = "healthy" if device["healthy"] else f"unhealthy: {device['reason']}"
    memory = show.slot(MEM, device["memory"]) if device["memory"] else ""
    numa = "" if device["numa"] is None else device["numa"]
    used = f"{show.slot(device['slot'], device['used'])} of {show.slot(device['slot'], device['total'])}"
    return [device["id"], device["slot"], device["model"], memory, numa, used, health]


def _devices(devices: list[Json]) -> str:
    """`gpu0 0.5 of cuda.shares, gpu3 unhealthy`: those that are in use or sick."""
    words = []
    for device in devices:
        used = device["used"] / (SHARES_OF_A_DEVICE if is_shares(device["slot"]) else 1)
        if used or not device["healthy"]:
            words.append(f"{device['id']} {f'{used:g}' if device['healthy'] else 'unhealthy'}")
    return ", ".join(words)
