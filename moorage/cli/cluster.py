"""Verbs about the cluster: agents, resources."""

from __future__ import annotations

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson


def agents(json: AsJson = False) -> None:
    """List the nodes."""
    items = Client().agents()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["AGENT", "STATUS", "GROUP", "RUNTIME", "ARCH", "USED", "SESSIONS", "SEEN"],
        [
            (a["id"], a["status"], a["resource_group"], a["runtime"], a["architecture"], _used(a["slots"]),
             a["sessions"], f"{show.age(a['last_seen'])} ago" if a["last_seen"] else "")
            for a in items
        ],
    )  # fmt: skip


def resources(json: AsJson = False) -> None:
    """Show what the cluster has, uses and has left."""
    answer = Client().resources()
    if json:
        return show.as_json(answer)
    show.table(
        ["SLOT", "CAPACITY", "USED", "FREE"],
        [
            (name, *(show.slot(name, amounts[key]) for key in ("capacity", "used", "free")))
            for name, amounts in answer["slots"].items()
        ],
    )
    nodes, sessions = answer["agents"], answer["sessions"]
    print(f"agents: {nodes['alive']} alive, {nodes['lost']} lost")
    return print(f"sessions: {sessions['running']} running, {sessions['pending']} pending")


def _used(slots: Json) -> str:
    return ", ".join(
        f"{name} {show.slot(name, amounts['used'])} of {show.slot(name, amounts['capacity'])}"
        for name, amounts in slots.items()
    )
