"""Connections to PostgreSQL, migrations, and listening to its notifications."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

# Two replicas that start together take turns.
_MIGRATION_LOCK = 7_241_001


def connect(database_url: str, *, pool_size: int = 20) -> AsyncEngine:
    """An engine with a pool. Connections are checked by their first use; a restart of PostgreSQL costs one retry.

    Whoever finds them all in use waits: a connection made for one use costs more than the wait.
    """
    url = make_url(database_url).set(drivername="postgresql+asyncpg")
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_pre_ping=False,
        pool_recycle=1800,
        hide_parameters=True,  # an error's words are logged; what was written may be secret
    )


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[asyncpg.Connection]:
    """The driver's own connection from the engine's pool, for single statements that write nothing.

    Without SQLAlchemy's transaction and row objects a read costs the API a quarter of the processor time.
    """
    try:
        pooled = await engine.raw_connection()
    except engine.dialect.loaded_dbapi.Error as error:  # a refused connection, in SQLAlchemy's own disguise
        raise error.__cause__ or error from None
    try:
        yield pooled.driver_connection
    except BaseException:
        pooled.invalidate()  # what broke off may have left anything behind
        raise
    finally:
        pooled.close()


def migrate(database_url: str) -> None:
    """The database has the newest tables. Blocks; may run in several processes at once."""
    asyncio.run(_migrate(database_url))


async def _migrate(database_url: str) -> None:
    engine = connect(database_url, pool_size=1)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@asynccontextmanager
async def listening(database_url: str, channel: str) -> AsyncIterator[asyncio.Queue[str]]:
    """A queue of the payloads notified on the channel. A lost connection puts "" so that the reader looks around."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url)
    try:
        await connection.add_listener(channel, lambda *args: queue.put_nowait(str(args[3])))
        connection.add_termination_listener(lambda _: queue.put_nowait(CONNECTION_LOST))
        yield queue
    finally:
        await connection.close(timeout=2)


CONNECTION_LOST = "\0lost"
