"""The verb about the audit: read it, export it, prove that nobody changed it."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json
from moorage.cli.sessions import AsJson
from moorage.domain.chain import Broken, Chain, Head, parse_head
from moorage.domain.errors import InvalidRequest

_BROKEN = 2  # exit code: asked and answered, and the answer is bad


def audit(
    since: Annotated[str | None, typer.Option(help="An ISO time, or a span back such as 2h.")] = None,
    until: Annotated[str | None, typer.Option(help="An ISO time, or a span back.")] = None,
    actor: Annotated[str | None, typer.Option(help="E-mail address of whoever did it, or of whom he acted as.")] = None,
    operation: Annotated[str | None, typer.Option(help="For example session:create or auth:login.")] = None,
    entity: Annotated[str | None, typer.Option(help="KIND or KIND/ID, for example session or user/ID.")] = None,
    outcome: Annotated[str | None, typer.Option(help="success, asked, denied, refused or failed.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 50,
    json: AsJson = False,
    export: Annotated[bool, typer.Option("--export", help="Write all as JSON lines, the oldest first.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Prove that nobody changed it.")] = False,
    verify_file: Annotated[Path | None, typer.Option(help="The same for an exported file; asks no server.")] = None,
    expect: Annotated[str | None, typer.Option(help="SEQ:HASH of an earlier proof; shows if the end was cut.")] = None,
) -> None:
    """Show who did what, newest first; export it; prove that nobody changed it."""
    if verify_file is not None:
        return _proven(_verified_file(verify_file, parse_head(expect) if expect else None), json=json)
    if verify:
        return _proven(Client().verify_audit(expect), json=json)
    kind, _, entity_id = (entity or "").partition("/")
    which = {
        "since": since, "until": until, "actor": actor, "operation": operation, "entity": kind or None,
        "entity_id": entity_id or None, "outcome": outcome,
    }  # fmt: skip
    if export:
        for line in Client().export_audit(**which):
            print(line)
        return None
    answer = Client().audit(limit=limit, **which)
    if json:
        return show.as_json(answer)
    return show.table(
        ["SEQ", "AT", "WHO", "FROM", "DID", "ON", "OUTCOME"],
        [
            (one["seq"], one["at"][:19], _who(one), one["address"], one["operation"], one["entity_id"], _outcome(one))
            for one in answer["items"]
        ],
    )


def _who(row: Json) -> str:
    name = row["actor"] or "(nobody)"
    return f"{name} as {row['acted_as']}" if row["acted_as"] else str(name)


def _outcome(row: Json) -> str:
    words = f"{row['outcome']} ({row['code']})" if row.get("code") else str(row["outcome"])
    return f"{words}, {row['count']} times" if row.get("count", 1) > 1 else words


def _proven(answer: Json, *, json: bool) -> None:
    """Exit code 2 if the chain is broken."""
    head = answer["head"]
    if json:
        show.as_json(answer)
    elif answer["broken"]:
        show.note(f"broken at row {answer['broken']['seq']}: {answer['broken']['what']}")
    else:
        print(f"{answer['rows']} rows, none of them changed" + (f"; {head['seq']}:{head['hash']}" if head else ""))
    if answer["broken"]:
        sys.exit(_BROKEN)


def _verified_file(file: Path, expected: Head | None) -> Json:
    with file.open(encoding="utf-8", errors="replace") as lines:
        chain, broken = _followed(lines, expected)
    head = {"seq": chain.seq, "hash": chain.head.hex()} if chain.rows else None
    return {"rows": chain.rows, "head": head, "broken": broken}


def _followed(lines: Iterable[str], expected: Head | None) -> tuple[Chain, Broken | None]:
    chain = Chain(part=True)
    for number, line in enumerate(lines, start=1):
        broken = chain.follow(**_parsed(line, number))
        if broken is None and expected is not None and chain.seq == expected.seq:
            broken = expected.contradicts(chain)
        if broken is not None:
            return chain, broken
    return chain, expected.contradicts(chain) if expected is not None else None


def _parsed(line: str, number: int) -> Json:
    try:
        row = jsons.loads(line)
        return {
            "seq": int(row["seq"]),
            "previous": bytes.fromhex(row["previous"]),
            "digest": bytes.fromhex(row["hash"]),
            "record": str(row["record"]),
        }
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest(f"line {number} is no row of an exported audit") from None
