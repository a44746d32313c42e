"""What policies and limits have in common on the command line: the options, and how they are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from moorage.cli import show
from moorage.cli.client import Json
from moorage.cli.pairs import pairs
from moorage.cli.seconds import parse_seconds
from moorage.domain.errors import InvalidRequest
from moorage.domain.idle import IdlePolicy, span, thresholds
from moorage.domain.resources import CPU, SHARES_OF_A_DEVICE, is_shares

Count = Annotated[str | None, typer.Option(help="A number, or none.")]
Number = Annotated[str | None, typer.Option(help="A number, may be negative, or none.")]
Amounts = Annotated[list[str] | None, typer.Option(help="SLOT=AMOUNT or SLOT=none, may be repeated.")]
Span = Annotated[str | None, typer.Option(help="A length of time as 10m, 8h or 3d, or none.")]
Hosts = Annotated[list[str] | None, typer.Option(help="A host of folders, or none; may be repeated.")]
Percent = Annotated[str | None, typer.Option(help="Idle is below so many percent; or none.")]
Rate = Annotated[str | None, typer.Option(help="Idle is below so many bytes a second; or none.")]
DryRun = Annotated[bool | None, typer.Option("--idle-dry-run/--no-idle-dry-run", help="Idle sessions are only told.")]

NONE = "none"
# Option → field of the API.
_COUNTS = {
    "max_sessions": "max_sessions",
    "max_pending": "max_pending",
    "max_containers": "max_containers",
    "max_priority": "max_priority",
    "max_job_priority": "max_job_priority",
}
_SPANS = {"max_lifetime": "max_lifetime_s", "idle_timeout": "idle_timeout_s"}
_SLOTS = {"max": "max_slots", "max_pending_slot": "max_pending_slots"}
_HOSTS = {"allow_folder_host": "allowed_folder_hosts"}
# Of `idle`, which is written as a whole.
IDLE = {
    "idle_cpu": "cpu_percent",
    "idle_device": "device_percent",
    "idle_net": "net_bps",
    "idle_grace": "grace_s",
    "idle_dry_run": "dry_run",
}
OPTIONS = (*_COUNTS, *_SPANS, *IDLE, *_SLOTS, *_HOSTS)
FIELDS = (*_COUNTS.values(), *_SPANS.values(), "idle", *_SLOTS.values(), *_HOSTS.values())
HEADINGS = ("SESSIONS", "SLOTS", "PENDING", "PENDING SLOTS", "ONE SESSION")

_ONE_SESSION = {
    "max_containers": "containers",
    "max_priority": "priority",
    "max_job_priority": "job priority",
    "max_lifetime_s": "lifetime",
    "idle_timeout_s": "idle timeout",
    "idle": "idle",
    "allowed_folder_hosts": "folder hosts",
}


def written(now: Mapping[str, Any], **given: Any) -> Json:
    """The fields that were named, as the API reads them. Slots that were not named stay."""
    wish: Json = {}
    for option, field in _COUNTS.items():
        if given[option] is not None:
            wish[field] = _count(_flag(option), given[option])
    for option, field in _SPANS.items():
        if given[option] is not None:
            wish[field] = None if given[option] == NONE else parse_seconds(given[option])
    for option, field in _SLOTS.items():
        if given[option]:
            merged = kept_slots(now).get(field, {}) | pairs(_flag(option), given[option])
            wish[field] = {slot: amount for slot, amount in merged.items() if amount != NONE}
    for option, field in _HOSTS.items():
        if given[option]:
            wish[field] = None if given[option] == [NONE] else given[option]
    rule = {field: _rule(option, given[option]) for option, field in IDLE.items() if given[option] is not None}
    return wish | ({"idle": {**(now.get("idle") or {}), **rule}} if rule else {})


def _rule(option: str, words: str | bool) -> float | bool | None:
    if isinstance(words, bool):
        return words
    if option == "idle_grace":
        return parse_seconds(words)
    try:
        return None if words == NONE else float(words)
    except ValueError:
        raise InvalidRequest(f"{_flag(option)} {words!r} is neither a number nor none") from None


def kept_slots(now: Mapping[str, Any]) -> Json:
    """The slots in force, as the API reads them: turned back from base units."""
    return {
        field: {slot: _amount(slot, amount) for slot, amount in now[field].items()}
        for field in _SLOTS.values()
        if field in now
    }


def cells(one: Json) -> tuple[object, ...]:
    """What all sessions together may have, then what one may."""
    together = (one["max_sessions"], show.slots(one["max_slots"]), one["max_pending"])
    return (*together, show.slots(one["max_pending_slots"]), one_session(one))


def one_session(one: Json) -> str:
    words = {_ONE_SESSION[name]: _words(name, one.get(name)) for name in _ONE_SESSION if one.get(name) is not None}
    return ", ".join(f"{name} {value}" for name, value in words.items())


def lines(one: Json) -> dict[str, object]:
    """Every field with its name in words."""
    return {name.replace("_", " "): _words(name, value) for name, value in one.items()}


def _words(name: str, value: Any) -> object:
    if isinstance(value, list):
        return " ".join(map(str, value)) or NONE
    if name == "idle" and value is not None:
        policy = IdlePolicy(**value)
        told = ", dry run" if policy.dry_run else ""
        return f"{thresholds(policy)}, {span(policy.grace_s)} after the warning{told}"
    if isinstance(value, dict):
        return show.slots(value)
    return show.duration(value) if name.endswith("_s") and value is not None else value


def _count(option: str, words: str) -> int | None:
    if words == NONE:
        return None
    number = words.removeprefix("-") if option == "--max-job-priority" else words
    if not number.isdecimal():
        raise InvalidRequest(f"{option} {words!r} is neither a number nor none")
    return int(words)


def _amount(slot: str, amount: int) -> str:
    if slot == CPU:
        return f"{amount}m"
    return str(amount / SHARES_OF_A_DEVICE) if is_shares(slot) else str(amount)


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
