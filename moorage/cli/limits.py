"""Verbs about limits: list, set, rm."""

from __future__ import annotations

from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.pairs import pairs
from moorage.cli.sessions import AsJson
from moorage.domain.errors import InvalidRequest
from moorage.domain.resources import CPU, SHARES_OF_A_DEVICE, is_shares
from moorage.scheduler.snapshot import Scope

app = typer.Typer(help="List and set what owners may have at once, and their weights.")

Owner = Annotated[str, typer.Argument(help="An access key, an e-mail address, DOMAIN/PROJECT or a domain.")]
Whose = Annotated[Scope, typer.Argument(help="What the name means.")]
Count = Annotated[str | None, typer.Option(help="A number, or none.")]
Amounts = Annotated[list[str] | None, typer.Option(help="SLOT=AMOUNT or SLOT=none, may be repeated.")]

_NONE = "none"


@app.callback(invoke_without_command=True)
def index(context: typer.Context, json: AsJson = False) -> None:
    """List and set what owners may have at once, and their weights."""
    if context.invoked_subcommand is not None:
        return None
    items = Client().limits()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["SCOPE", "NAME", "SESSIONS", "SLOTS", "PENDING", "PENDING SLOTS", "WEIGHT"],
        [
            (one["scope"], one["name"], one["max_sessions"], show.slots(one["max_slots"]), one["max_pending"],
             show.slots(one["max_pending_slots"]), f"{one['weight']:g}")
            for one in items
        ],
    )  # fmt: skip


@app.command("set")
def change(
    scope: Whose,
    name: Owner,
    max_sessions: Count = None,
    max: Amounts = None,
    max_pending: Count = None,
    max_pending_slot: Amounts = None,
    weight: Annotated[float | None, typer.Option(help="Share that is due; more than 0.")] = None,
    json: AsJson = False,
) -> None:
    """Set an owner's limits; what isn't named stays as it is."""
    client = Client()
    now = next((one for one in client.limits() if (one["scope"], one["name"]) == (scope, name)), {})
    wish: Json = {
        "max_sessions": _count("--max-sessions", max_sessions, now.get("max_sessions")),
        "max_slots": _amounts("--max", max, now.get("max_slots")),
        "max_pending": _count("--max-pending", max_pending, now.get("max_pending")),
        "max_pending_slots": _amounts("--max-pending-slot", max_pending_slot, now.get("max_pending_slots")),
        "weight": now.get("weight", 1.0) if weight is None else weight,
    }
    limit = client.put_limit(scope, name, wish)
    if json:
        return show.as_json(limit)
    slots = {key: show.slots(limit[key]) for key in ("max_slots", "max_pending_slots")}
    return show.fields({key.replace("_", " "): value for key, value in (limit | slots).items()})


@app.command()
def rm(scope: Whose, name: Owner) -> None:
    """Remove an owner's limits; its weight is 1 again."""
    Client().remove_limit(scope, name)


def _count(option: str, words: str | None, now: int | None) -> int | None:
    if words is None:
        return now
    if words == _NONE:
        return None
    if not words.isdecimal():
        raise InvalidRequest(f"{option} {words!r} is neither a number nor none")
    return int(words)


def _amounts(option: str, texts: list[str] | None, now: dict[str, int] | None) -> Json:
    """As the API reads them; those that stay are turned back from base units."""
    kept = {slot: _written(slot, amount) for slot, amount in (now or {}).items()}
    merged = kept | pairs(option, texts or [])
    return {slot: amount for slot, amount in merged.items() if amount != _NONE}


def _written(slot: str, amount: int) -> str:
    if slot == CPU:
        return f"{amount}m"
    return str(amount / SHARES_OF_A_DEVICE) if is_shares(slot) else str(amount)
