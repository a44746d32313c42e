"""`moor admin` against the real gateway on a real database."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.main import build
from moorage.cli.admin.asking import cell, reference
from moorage.db import tenancy
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS
from tests.support.command import moor_for, served
from tests.support.gateway import JWT_KEYS, RecordedLives

Admin = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


@pytest.fixture
async def admin(database_url: str, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Admin]:
    """`moor admin …` as the superadmin."""
    access_key, secret_key = await tenancy.create_user(
        engine, Seal(KEYS), "root@example.org", "correct horse", role="superadmin"
    )
    settings = Settings(database_url=database_url, payload_keys=KEYS, jwt_keys=JWT_KEYS, dataplane_key="d" * 32)
    with served(build(settings, lives=RecordedLives())) as endpoint:
        moor = moor_for(endpoint, tmp_path)

        async def call(*arguments: str) -> subprocess.CompletedProcess[str]:
            keys = {"MOORAGE_ACCESS_KEY": access_key, "MOORAGE_SECRET_KEY": secret_key}
            return await asyncio.to_thread(moor, "admin", *arguments, **keys)

        yield call


async def shown(admin: Admin, *arguments: str) -> Any:
    outcome = await admin(*arguments, "--json")
    assert outcome.returncode == 0, outcome.stderr
    return json.loads(outcome.stdout)


async def done(admin: Admin, *arguments: str) -> str:
    outcome = await admin(*arguments)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


async def test_a_tenant_is_set_up_looked_at_and_removed(admin: Admin) -> None:
    await done(admin, "domain", "create", "lab", "--description", "the lab")
    await done(admin, "project", "create", "lab/ml")
    await done(admin, "project", "create", "lab/nlp")
    made = await done(admin, "user", "create", "mia@lab.org", "--domain", "lab", "--project", "ml", "--rank", "admin")
    assert "secret key" in made
    assert "AKIA" in made
    await done(admin, "project", "add", "lab/nlp", "mia@lab.org")
    assert "mia@lab.org" in await done(admin, "project", "members", "lab/nlp")
    assert (await shown(admin, "user", "set", "mia@lab.org", "--project", "nlp"))["project"] == "nlp"
    await done(admin, "project", "remove", "lab/ml", "mia@lab.org")
    refused = await admin("domain", "rm", "lab")
    assert refused.returncode == 1
    assert "still has 2 projects (ml, nlp)" in refused.stderr
    assert "1 (mia@lab.org)" in await done(admin, "domain", "rm", "lab", "--dry-run")
    await done(admin, "user", "rm", "mia@lab.org")
    assert "yes" in await done(admin, "user", "purge", "mia@lab.org")
    await done(admin, "project", "rm", "lab/ml")


async def test_keys_and_roles_are_handed_out_and_taken_back(admin: Admin) -> None:
    await done(admin, "user", "create", "mia@lab.org", "--no-keypair")
    pair = await shown(admin, "user", "key", "mia@lab.org")
    assert pair["secret_key"]
    changed = await shown(admin, "keypair", "set", pair["access_key"], "--inactive", "--rate-limit", "none")
    assert (changed["is_active"], changed["rate_limit"]) == (False, None)
    assert "secret_key" not in await shown(admin, "keypair", "show", pair["access_key"])
    await done(admin, "keypair", "rm", pair["access_key"])
    await done(admin, "role", "create", "viewer", "session:read", "user:*")
    assert "viewer" in await done(admin, "role", "ls")
    given = await shown(admin, "role", "assign", "viewer", "mia@lab.org", "--project", "default/default", "--for", "2d")
    assert given["expires_at"] is not None
    assert "default/default" in await done(admin, "role", "who", "viewer")
    assert (await admin("role", "rm", "viewer")).returncode == 1
    await done(admin, "role", "revoke", given["id"])
    await done(admin, "role", "rm", "viewer")
    ambiguous = await admin("role", "assign", "member", "mia@lab.org")
    assert "name one of" in ambiguous.stderr


def test_cells_and_references_are_as_people_read_and_routes_take_them() -> None:
    assert [cell(one) for one in (True, False, ["a", "b"], 3)] == ["yes", "no", "a, b", 3]
    assert reference("lab/ml") == "lab:ml"
