"""What a node costs: making and removing containers, keeping idle ones, and telling that one has ended."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.bench import node_alone, node_cluster
from moorage.cli.bench.own_cluster import own_cluster


def node(
    n: Annotated[
        int,
        typer.Option(min=1, max=500, help="Containers that each side makes; rounds of the rest."),
    ] = 40,
    containers: Annotated[int, typer.Option(min=1, max=1000, help="Idle containers that the agent keeps.")] = 100,
    seconds: Annotated[
        int,
        typer.Option(min=1, max=600, help="How long the idle agent is watched; a neighbour 6 s at most."),
    ] = 60,
    image: Annotated[str, typer.Option(help="A small image that is on the node.")] = "moorage-test-busybox:1",
) -> None:
    """The agent's own code against the Docker SDK, then a whole cluster's node. Needs Docker."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    figures = asyncio.run(node_alone.measure(n, seconds, image))
    show.note(f"alone: {json.dumps(figures)}")
    with node_cluster.swept() as sweep, own_cluster(runtime="docker") as cluster:
        sweep.append(cluster.name)
        figures["exit_to_terminated"] = node_cluster.exits(cluster, n, image)
        show.note(f"exit to TERMINATED: {json.dumps(figures['exit_to_terminated'])}")
        figures["idle"] = node_cluster.idle(cluster, containers, seconds, image)
    print(json.dumps(figures))
