"""`moor check`: do the invariants hold?"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.sessions import AsJson
from moorage.cli.up.state import DEFAULT_DIR_HELP, Place, read_run
from moorage.domain.errors import InvalidRequest


def check(
    data_dir: Annotated[Path | None, typer.Option(help=DEFAULT_DIR_HELP)] = None,
    json: AsJson = False,
) -> None:
    """Check what must always hold, in the database. Exit code 1 when something doesn't."""
    # Loaded late: it brings the database libraries, which most verbs do not need.
    from moorage.db.invariants import violations

    found = asyncio.run(violations(_database_url(data_dir)))
    if json:
        show.as_json({"violations": found})
    else:
        print("\n".join(show.printable(line) for line in found) or "all invariants hold")
    raise typer.Exit(1 if found else 0)


def _database_url(data_dir: Path | None) -> str:
    url = os.environ.get("MOORAGE_DATABASE_URL", "")
    if url and data_dir is None:
        return url
    place = Place.of(data_dir)
    record = read_run(place)
    if record is None:
        raise InvalidRequest(
            f"nothing runs in {place.folder}, so there is no database to read",
            hint="start it with `moor up`, or set MOORAGE_DATABASE_URL",
        )
    return record.database_url
