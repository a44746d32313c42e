"""Verbs about quotas: what is used of what is allowed; grant, grants, revoke."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moorage.cli import show
from moorage.cli.ceilings import one_session
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.scheduler.snapshot import Scope


class _OrOwner(TyperGroup):
    """`moor quota user ada@example.org` is `moor quota show user ada@example.org`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["show", *args] if args and args[0] in list(Scope) else args)


app = typer.Typer(help="Show what is used of what is allowed, and give more for a time.", cls=_OrOwner)

Whose = Annotated[Scope, typer.Argument(help="What the name means.")]
Owner = Annotated[str, typer.Argument(help="An access key, an e-mail address, DOMAIN/PROJECT or a domain.")]

_CELLS = 10


@app.callback(invoke_without_command=True)
def index(context: typer.Context, json: AsJson = False) -> None:
    """Show what is used of what is allowed: by you, in your projects and domain; and give more for a time."""
    if context.invoked_subcommand is None:
        _show(Client().quotas(), json=json)


@app.command("show")
def of_owner(scope: Whose, name: Owner, json: AsJson = False) -> None:
    """Show what is used of what is allowed by one owner; `show` may be left out."""
    _show(Client().quotas(scope, name), json=json)


@app.command()
def grant(
    scope: Whose,
    name: Owner,
    slot: Annotated[str, typer.Argument(help="A resource, or sessions.")],
    amount: Annotated[str, typer.Argument(help="How much more, as in a session's resources.")],
    until: Annotated[str, typer.Option(help="An ISO time, or a span from the start on as 8h or 3d.")],
    starts: Annotated[str | None, typer.Option("--from", help="An ISO time, or a span from now on; now.")] = None,
    reason: Annotated[str, typer.Option(help="Why; everybody concerned reads it.")] = "",
    json: AsJson = False,
) -> None:
    """Give an owner more for a time, on top of its limit."""
    wish: Json = {"scope": scope, "name": name, "slot": slot, "amount": amount, "ends": until, "reason": reason}
    made = Client().grant(wish | ({"starts": starts} if starts else {}))
    return show.as_json(made) if json else print(f"{made['id']}: {_given(made)}")


@app.command()
def grants(json: AsJson = False) -> None:
    """List grants: in force, future and past."""
    items = Client().grants()
    if json:
        return show.as_json({"items": items})
    return show.table(
        ["ID", "SCOPE", "NAME", "WHAT", "MORE", "STATE", "FROM", "UNTIL", "BY", "REASON"],
        [
            (one["id"], one["scope"], one["name"], one["slot"], f"+{_amount(one['slot'], one['amount'])}",
             one["state"], _minute(one["starts_at"]), _minute(one["ends_at"]), one["given_by"], one["reason"])
            for one in items
        ],
    )  # fmt: skip


@app.command()
def revoke(id: Annotated[str, typer.Argument(help="The grant's id.")]) -> None:
    """Take a grant back; what runs already goes on."""
    Client().revoke_grant(id)


def _show(items: list[Json], *, json: bool) -> None:
    if json:
        return show.as_json({"items": items})
    show.table(["SCOPE", "NAME", "WHAT", "USED", "LIMIT", ""], [row for quota in items for row in _rows(quota)])
    for quota in items:
        for one in quota["grants"]:
            show.note(f"granted to {quota['scope']} {quota['name']}: {_given(one)}")
    return None


def _rows(quota: Json) -> Iterator[tuple[object, ...]]:
    """One line for each thing that is limited or used; the owner stands on the first."""
    limited = {slot: amounts for slot, amounts in quota["pending_slots"].items() if amounts["limit"] is not None}
    found = [
        ("sessions", "sessions", quota["sessions"]),
        *((slot, slot, amounts) for slot, amounts in quota["slots"].items()),
        ("pending", "sessions", quota["pending"]),
        *((f"pending {slot}", slot, amounts) for slot, amounts in limited.items()),
    ]
    owner = (quota["scope"], quota["name"])
    for what, slot, amounts in found:
        used, limit = amounts["used"], amounts["limit"]
        yield *owner, what, _amount(slot, used), "" if limit is None else _amount(slot, limit), _bar(used, limit)
        owner = ("", "")
    if words := one_session(quota["ceilings"]):
        yield "", "", "one session", "", words, ""


def _bar(used: int, limit: int | None) -> str:
    """How full it is: ▇▇▇······· 30 %."""
    if limit is None:
        return ""
    full = 1.0 if limit == 0 else used / limit
    cells = min(_CELLS, round(full * _CELLS))
    return f"{'▇' * cells}{'·' * (_CELLS - cells)} {full:.0%}"


def _given(grant: Json) -> str:
    more = f"+{_amount(grant['slot'], grant['amount'])} {grant['slot']}"
    words = f"{more} from {_minute(grant['starts_at'])} until {_minute(grant['ends_at'])}"
    return f"{words} ({grant['reason']})" if grant["reason"] else words


def _amount(slot: str, amount: int) -> str:
    return str(amount) if slot == "sessions" else show.slot(slot, amount)


def _minute(iso: str) -> str:
    return show.moment(iso).strftime("%Y-%m-%d %H:%M")
