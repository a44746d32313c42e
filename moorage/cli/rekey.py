"""Seal anew what lies in the database, after a new first key was put into MOORAGE_PAYLOAD_KEYS."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from moorage.cli import show
from moorage.cli.sessions import AsJson
from moorage.domain.errors import Conflict


def rekey(
    count: Annotated[bool, typer.Option("--count", help="Only tell what older keys have sealed.")] = False,
    json: AsJson = False,
) -> None:
    """Seal everything in the database with the first of MOORAGE_PAYLOAD_KEYS. Reads the servers' settings."""
    from moorage.settings import load_settings, require

    settings = load_settings()
    require(settings, "database_url", "payload_keys")
    done, left = asyncio.run(_rekey(settings.database_url, settings.payload_keys, only_count=count))
    if json:
        return show.as_json({"sealed": done, "left": left})
    show.table(
        ["COLUMN", "SEALED ANEW", "UNDER OLDER KEYS"],
        [
            (name, done.get(name, 0), ", ".join(f"{n} {key}" for key, n in keys.items()) or 0)
            for name, keys in left.items()
        ],
    )
    return None


async def _rekey(
    database_url: str, payload_keys: str, *, only_count: bool
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """(column → sealed anew, column → key → left)."""
    # Loaded late: no other verb needs the database's libraries.
    from moorage.db import rekey as sealed
    from moorage.db.engine import connect
    from moorage.seal import Seal

    engine, seal, done = connect(database_url, pool_size=1), Seal(payload_keys), dict[str, int]()
    try:
        if not only_count:
            async for name, number in sealed.reseal(engine, seal):
                done[name] = done.get(name, 0) + number
        return done, await sealed.remaining(engine, seal)
    except ValueError as error:
        raise Conflict(f"{error}; put it back into the ring, behind the first one", code="missing-key") from None
    finally:
        await engine.dispose()
