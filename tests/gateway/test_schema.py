"""The OpenAPI document against the gateway: nothing that it allows, and nothing beside it, makes the API fail."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

import asyncpg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.main import build
from moorage.db import tenancy
from moorage.db.engine import connect
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, PASSWORD, RecordedLives, basic
from tests.support.served import served

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    status_code_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
EXAMPLES = 5  # of each operation, valid and invalid, by each role
ROLES = ("superadmin", "admin", "monitor", "user")


@pytest.fixture(scope="module")
def gateway_of_all(postgres: str, template: str) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """(address, Authorization header by role)."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    asyncio.run(_sql(postgres.format("postgres"), f"CREATE DATABASE {name} TEMPLATE {template}"))
    url = postgres.format(name)
    credentials = asyncio.run(_users(url))
    app = build(
        Settings(database_url=url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32), lives=RecordedLives()
    )
    with served(app) as address:
        yield address, credentials
    asyncio.run(_sql(postgres.format("postgres"), f"DROP DATABASE {name} WITH (FORCE)"))


async def _sql(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _users(url: str) -> dict[str, dict[str, str]]:
    engine = connect(url)
    seal = Seal(KEYS)
    found = {
        role: basic(*await tenancy.create_user(engine, seal, f"{role}@example.org", PASSWORD, role=role))
        for role in ROLES
    }
    await engine.dispose()
    return found


def test_no_request_that_the_document_allows_or_forbids_makes_the_api_fail(
    gateway_of_all: tuple[str, dict[str, dict[str, str]]],
) -> None:
    address, credentials = gateway_of_all
    document = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in document.get_all_operations() if isinstance(found, Ok)]
    assert len(operations) > 25
    for operation in operations:
        for mode in GenerationMode:
            _try(operation.as_strategy(generation_mode=mode), address, credentials)


def _try(cases: SearchStrategy[Any], address: str, credentials: dict[str, dict[str, str]]) -> None:
    """Each by every role: to make a request up takes longer than to answer it."""

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def ask(case: Any) -> None:
        # uvicorn itself answers a longer first line, in plain text
        assume(len(urlencode(case.query or {}, doseq=True)) < 10_000)
        for headers in credentials.values():
            case.call_and_validate(base_url=address, headers=headers, checks=CHECKS)

    with suppress(Unsatisfiable):  # nothing can be wrong with a request without parameters
        ask()
