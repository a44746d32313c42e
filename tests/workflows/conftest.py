"""One time-skipping server for all stories."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest_asyncio
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest
from temporalio.testing import WorkflowEnvironment

from moorage.contracts import names


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def temporal() -> AsyncIterator[WorkflowEnvironment]:
    async with a_server() as environment:
        yield environment


@asynccontextmanager
async def a_server() -> AsyncIterator[WorkflowEnvironment]:
    """For stories that leave activities behind: as long as one runs, a server's time stands still."""
    async with await _started() as environment:
        await environment.client.operator_service.add_search_attributes(_search_attributes())
        yield environment


async def _started() -> WorkflowEnvironment:
    """Once more if it does not answer: the SDK takes a free port and waits for ever if somebody else took it first."""
    server = str(Path(sys.executable).parent / "temporal-test-server")
    for _ in range(3):
        try:
            async with asyncio.timeout(20):
                return await WorkflowEnvironment.start_time_skipping(test_server_existing_path=server)
        except TimeoutError:
            continue
    raise AssertionError("the time-skipping server did not start within a minute")


def _search_attributes() -> AddSearchAttributesRequest:
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    return AddSearchAttributesRequest(search_attributes={key.name: keyword for key in names.SEARCH_ATTRIBUTES})
