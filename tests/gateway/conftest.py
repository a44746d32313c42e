"""A gateway for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import tenancy
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.gateway import JWT_KEYS, PASSWORD, Clock, Gateway, RecordedLives, basic, built
from tests.support.tenants import Tenants, settled


@pytest.fixture
async def gateway(database_url: str, engine: AsyncEngine) -> AsyncIterator[Gateway]:
    seal = Seal(KEYS)
    ada = await tenancy.create_user(engine, seal, "ada@example.org", PASSWORD)
    bob = await tenancy.create_user(engine, seal, "bob@example.org", PASSWORD)
    root = await tenancy.create_user(engine, seal, "root@example.org", PASSWORD, role="superadmin")
    lives = RecordedLives()
    settings = Settings(database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32)
    clock = Clock()
    app = built(settings, lives, clock)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        yield Gateway(app, http, lives, engine, basic(*ada), basic(*bob), basic(*root), clock)


@pytest.fixture
async def tenants(gateway: Gateway) -> Tenants:
    return await settled(gateway)


@pytest.fixture
async def replica(gateway: Gateway, database_url: str) -> AsyncIterator[Gateway]:
    """A second API on the same database."""
    settings = Settings(database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32)
    app = built(settings, gateway.lives, gateway.clock)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        yield replace(gateway, app=app, http=http)
