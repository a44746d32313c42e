"""Verbs about images: ls, pull, rm, allowed."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import INTERRUPTED, AsJson
from moorage.domain.image_orders import NodeState, OrderKind
from moorage.domain.resources import MEM

app = typer.Typer(help="See which images the nodes have; pull them ahead, remove them.", no_args_is_help=True)

Image = Annotated[str, typer.Argument(help="With its tag, or as name@sha256:…")]
Group = Annotated[str | None, typer.Option(help="On the nodes of this resource group; on all by default.")]
Agents = Annotated[list[str] | None, typer.Option("--agent", help="On this node, may be repeated.")]
Detach = Annotated[bool, typer.Option("-d", "--detach", help="Return at once; the order goes on.")]

_LOOK_S = 0.5  # the API has no event of an order to wait for


@app.command()
def ls(json: AsJson = False) -> None:
    """List the images on the nodes: size, where, and when a container last had them."""
    items = Client().images()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["IMAGE", "DIGEST", "SIZE", "NODES", "LAST USED", "PULLED BY MOORAGE"],
        [
            (one["name"], _short(one["digest"]), show.slot(MEM, one["size"]), _nodes(one["agents"]),
             f"{show.age(one['last_used'])} ago" if one["last_used"] else "never", "yes" if one["pulled"] else "no")
            for one in items
        ],
    )  # fmt: skip


@app.command()
def pull(image: Image, group: Group = None, agent: Agents = None, detach: Detach = False, json: AsJson = False) -> None:
    """Pull an image to nodes ahead of its sessions; a tag is looked up anew. Ctrl-C detaches."""
    _order(OrderKind.PULL, image, group, agent, detach=detach, json=json)


@app.command()
def rm(image: Image, group: Group = None, agent: Agents = None, detach: Detach = False, json: AsJson = False) -> None:
    """Remove an image from nodes; one where a container has it refuses and says which."""
    _order(OrderKind.REMOVE, image, group, agent, detach=detach, json=json)


@app.command()
def allowed(json: AsJson = False) -> None:
    """List the patterns of images that may run; without any, every image may."""
    items = Client().allowed_images()
    if json:
        return show.as_json({"items": items})
    if not items:
        return show.note("every image is allowed")
    return show.table(
        ["PATTERN", "DOMAIN", "BY", "SINCE"],
        [(one["pattern"], one["domain"] or "all", one["created_by"], show.age(one["created_at"])) for one in items],
    )


def _order(
    kind: OrderKind, image: str, group: str | None, agents: list[str] | None, *, detach: bool, json: bool
) -> None:
    """Exit code 1 if it failed on any node."""
    client = Client()
    body = {"image": image, "agents": agents or []} | ({"resource_group": group} if group else {})
    order = client.order_image(kind, body)
    if not detach:
        try:
            order = _followed(client, order, quiet=json)
        except KeyboardInterrupt:
            show.note(f"\ndetached; the order goes on. Look again: moor image {_VERBS[kind]} {image}")
            raise typer.Exit(INTERRUPTED) from None
    if json:
        show.as_json(order)
    elif detach:
        print(order["id"])
    else:
        show.table(["NODE", "STATE", "WHAT"], [(one["agent"], one["state"], _what(one)) for one in order["nodes"]])
    if any(one["state"] == NodeState.FAILED for one in order["nodes"]):
        raise typer.Exit(1)


_VERBS = {OrderKind.PULL: "pull", OrderKind.REMOVE: "rm"}


def _followed(client: Client, order: Json, *, quiet: bool) -> Json:
    """Until it is over, with a line about the nodes that work on it."""
    line = show.Line()
    while order["ended_at"] is None:
        if not quiet:
            line.say(_progress(order["nodes"]))
        time.sleep(_LOOK_S)
        order = client.image_order(order["id"])
    if not quiet:
        line.end()
    return order


def _progress(nodes: list[Json]) -> str:
    """`2 of 5 nodes done; node3: 3/7 layers, 41 of 120 MB`."""
    done = sum(one["state"] != NodeState.WAITING for one in nodes)
    parts = [
        f"{one['agent']}: {one['progress']['amounts'] or 'asks the registry'}" for one in nodes if one.get("progress")
    ]
    return "; ".join([f"{done} of {len(nodes)} nodes done", *parts])


def _what(node: Json) -> str:
    return str(node["message"] or node["digest"] or node["image_id"])


def _short(digest: str) -> str:
    return digest[:19] if digest else "none"


def _nodes(agents: list[str]) -> str:
    return ", ".join(agents[:4]) + (f" and {len(agents) - 4} more" if len(agents) > 4 else "")
