"""Verbs about idleness: idle, extend; and how it is asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.seconds import parse_seconds
from moorage.cli.sessions import AsJson, Ref
from moorage.domain.idle import span


def idle(json: AsJson = False) -> None:
    """Show which running sessions are idle, since when, and when they are stopped."""
    found = Client().idle()
    if json:
        return show.as_json(found)
    show.table(
        ["NAME", "USER", "STAGE", "IDLE FOR", "WHAT", "STOPPED AT"],
        [
            (one["name"], one["user"], one["stage"], _since(one["idle_since"]), one["low"], _stopped_at(one))
            for one in found["items"]
        ],
    )
    if found["unanswered"]:
        show.note(f"no answer from {', '.join(found['unanswered'])}")
    if len(found["items"]) < found["total"]:
        show.note(f"{len(found['items'])} of {found['total']} shown")
    return None


def extend(
    ref: Ref,
    time: Annotated[str, typer.Argument(help="How much longer, for example 30m, 2h or 1d.")],
    json: AsJson = False,
) -> None:
    """Keep a running session longer: from now on, or on top of what it was extended by before."""
    session = Client().extend(ref, f"{parse_seconds(time):g}s")
    return show.as_json(session) if json else print(_kept(session))


def _kept(session: Json) -> str:
    said = f"{session['name']} is not stopped for idleness before {_clock(session['kept_until'])}"
    if session["lifetime_s"] and session["started_at"]:
        end = show.moment(session["started_at"]).timestamp() + session["lifetime_s"]
        said += f"; its life ends at {_clock(datetime.fromtimestamp(end, UTC).isoformat())}"
    return said


def _since(iso: str | None) -> str:
    return span((datetime.now(UTC) - show.moment(iso)).total_seconds()) if iso else ""


def _stopped_at(one: dict[str, Any]) -> str:
    if one["stops_at"] is None:
        return ""
    return f"{_clock(one['stops_at'])} (dry run: is not)" if one["idle"]["dry_run"] else _clock(one["stops_at"])


def _clock(iso: str | None) -> str:
    return show.moment(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S") if iso else ""
