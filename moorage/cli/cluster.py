"""Verbs about the cluster: resources."""

from __future__ import annotations

from moorage.cli import show
from moorage.cli.client import Client
from moorage.cli.sessions import AsJson


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
