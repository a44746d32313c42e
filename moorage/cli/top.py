"""`moor top`: what sessions use, now and again."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live
from rich.text import Text

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.cli.usage import UNKNOWN, amount, cores, known
from moorage.domain.errors import Unavailable

_COLUMNS = ["CPU", "%", "MEM", "OF", "READ/s", "WRITE/s", "RX/s", "TX/s", "PIDS", "DEVICES"]


def top(
    ref: Annotated[str | None, typer.Argument(help="Session id or name; all that run by default.")] = None,
    interval: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks.")] = 3.0,
    json: AsJson = False,
) -> None:
    """Show what sessions use; live on a terminal, once where the output is piped."""
    client = Client()
    if json:
        return show.as_json(client.stats(ref))
    if not sys.stdout.isatty():
        return show.console().print(_drawn(client.stats(ref)))
    try:
        with Live(_drawn(client.stats(ref)), console=show.console(), auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                live.update(_look(client, ref), refresh=True)
    except KeyboardInterrupt:
        return None


def _look(client: Client, ref: str | None) -> RenderableType:
    """An API that is away for a moment ends nothing."""
    try:
        return _drawn(client.stats(ref))
    except Unavailable as error:
        return Text(show.printable(error.message))


def _drawn(found: Json) -> RenderableType:
    """One line a session, or a kernel of the one that was asked for and their sum."""
    if "kernels" in found:
        rows = [(f"{one['role']}{one['idx']}", one["agent"] or "", *line(one["stats"])) for one in found["kernels"]]
        if len(rows) > 1:
            rows.append(("sum", "", *line(found["total"])))
        return show.drawn(["KERNEL", "AGENT", *_COLUMNS], rows, below=_below(found))
    rows = [(one["name"], ", ".join(one["agents"]), *line(one["stats"])) for one in found["items"]]
    return show.drawn(["NAME", "AGENT", *_COLUMNS], rows, below=_below(found))


def _below(found: Json) -> str:
    """What the table does not tell."""
    notes = []
    if found["unanswered"]:
        notes.append(f"no answer from {', '.join(found['unanswered'])}")
    if "items" in found and len(found["items"]) < found["total"]:
        notes.append(f"{len(found['items'])} of {found['total']} shown")
    if "session" in found and not found["kernels"]:
        notes.append(f"{found['session']['name']} is {found['session']['status']}; moor show tells what it used")
    return "; ".join(notes)


def line(stats: Json | None) -> tuple[str, ...]:
    """The columns of one; a dash is unknown."""
    if stats is None:
        return (UNKNOWN,) * len(_COLUMNS)
    cpu, mem, io, net = stats["cpu"], stats["mem"], stats["io"], stats["net"]
    return (
        cores(cpu["used"]),
        known(cpu["percent"], "{:.0f}"),
        amount(mem["used"]),
        amount(mem["limit"]),
        amount(io["read_bytes_s"]),
        amount(io["write_bytes_s"]),
        amount(net["rx_bytes_s"]),
        amount(net["tx_bytes_s"]),
        known(stats["pids"], "{}"),
        ", ".join(_device(device) for device in stats["devices"]),
    )


def _device(device: Json) -> str:
    memory = f" {amount(device['mem'])}" if device["mem"] is not None else ""
    return f"{device['device_id']} {known(device['utilisation'], '{:.0f} %')}{memory}"
