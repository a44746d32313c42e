"""What the administrator's verbs have in common: options, asking the API, and showing its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

import typer

from moorage.cli import show
from moorage.cli.client import Client, Json

Description = Annotated[str | None, typer.Option(help="For people.")]
Active = Annotated[bool | None, typer.Option("--active/--inactive", help="Whether it may be used.")]
Deleted = Annotated[bool, typer.Option("--deleted", help="Those that were deleted and are not purged.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what it owns.")]
Force = Annotated[bool, typer.Option("--force", help="Ask its live sessions to end first.")]
First = Annotated[int, typer.Option("--offset", help="How many to leave out.", min=0)]
_PAGE = 100


class Admin(Client):
    """Asks by path. Each part of a path is quoted, so that no name reaches another route."""

    def ask(self, method: str, *path: str, body: Json | None = None, **params: Any) -> Json:
        sent = {name: _plain(value) for name, value in params.items() if value not in (None, False, "")}
        answer = self._request(method, "/" + "/".join(quote(part, safe="") for part in path), json=body, params=sent)
        found: Json = answer.json() if answer.content else {}
        return found


def listed(
    headings: Sequence[str], keys: Sequence[str], *path: str, json: bool, offset: int = 0, **params: Any
) -> None:
    """A page of what the path lists, as a table of these keys."""
    page = Admin().ask("GET", *path, limit=_PAGE, offset=offset, **params)
    if json:
        return show.as_json(page)
    show.table(headings, [[cell(item[key]) for key in keys] for item in page["items"]])
    if page["total"] > len(page["items"]):
        show.note(f"{len(page['items'])} of {page['total']} shown; --offset {offset + len(page['items'])} shows more")
    return None


def printed(item: Json, *, json: bool) -> None:
    if json:
        return show.as_json(item)
    return show.fields({name.replace("_", " "): cell(value) for name, value in item.items()})


def removed(answer: Json, *, json: bool) -> None:
    """What a deletion or purge met, kind by kind."""
    if json:
        return show.as_json(answer)
    found = answer.get("owns") or answer.get("removed") or {}
    return show.fields({kind.replace("_", " "): _counted(value) for kind, value in found.items()})


def wish(**values: Any) -> Json:
    """What was named."""
    return {name: value for name, value in values.items() if value is not None}


def cell(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(one) for one in value) if isinstance(value, list) else value


def reference(project: str) -> str:
    """`domain/project` as one part of a path."""
    return project.replace("/", ":", 1)


def _plain(value: object) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _counted(value: Any) -> object:
    if not isinstance(value, dict):
        return cell(value)
    more = ", …" if value["count"] > len(value["first"]) else ""
    return f"{value['count']}" + (f" ({', '.join(value['first'])}{more})" if value["first"] else "")
