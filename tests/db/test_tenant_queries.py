"""What one tenant asks costs the same however many sessions the others have."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import limits, principals, quotas, sessions
from moorage.db.engine import connect, reading
from moorage.domain.errors import Conflict, NotFound
from moorage.domain.tenancy import Principal
from moorage.scheduler.snapshot import Scope

Plan = Mapping[str, Any]
Ask = Callable[[AsyncEngine, Principal], Awaitable[object]]

_TENANTS = """
INSERT INTO domains (name) VALUES ('mine'), ('other');
INSERT INTO projects (id, domain, name) SELECT gen_random_uuid(), 'mine', 'p' || n FROM generate_series(1, 4) n;
INSERT INTO projects (id, domain, name) SELECT gen_random_uuid(), 'other', 'p' || n FROM generate_series(1, 50) n;
INSERT INTO users (id, email, role, domain, project_id)
    SELECT gen_random_uuid(), 'u' || n || '@' || domain, 'user', domain, p.id FROM projects p, generate_series(1, 10) n
    WHERE p.name = 'p1' AND p.domain <> 'default';
INSERT INTO users (id, email, role, domain, project_id)
    SELECT gen_random_uuid(), 'u' || n || '@' || domain || p.name, 'user', domain, p.id
    FROM projects p, generate_series(1, 10) n WHERE p.name <> 'p1' AND p.domain <> 'default';
INSERT INTO memberships (user_id, project_id) SELECT id, project_id FROM users;
INSERT INTO keypairs (access_key, user_id, secret) SELECT 'K-' || email, id, '' FROM users;
UPDATE users SET role = 'admin' WHERE email = 'u3@mine';
INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by)
    SELECT gen_random_uuid(), id, 'project-admin', 'project', project_id::text, 'root' FROM users
    WHERE email = 'u2@mine';
"""
# One in five waits, one in five runs, the rest has ended; spread over a month.
_SESSIONS = """
INSERT INTO sessions (id, name, user_id, project_id, domain, access_key, resource_group, type, image, command, slots,
    priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s, status, result, attempt,
    created_at)
SELECT gen_random_uuid(), 's' || n || '-' || :run, u.id, u.project_id, u.domain, 'K-' || u.email, 'default',
    'batch', 'img', '{true}', '{"cpu": 1000}', 10, 'fail', 0, 0, 0, 10,
    (ARRAY['PENDING', 'RUNNING', 'TERMINATED', 'CANCELLED', 'TERMINATED'])[1 + n % 5], 'UNDEFINED', 0,
    now() - random() * interval '30 days'
FROM (SELECT *, row_number() OVER (ORDER BY email) AS place, count(*) OVER () AS all_of FROM users
      WHERE domain = :domain) u
JOIN generate_series(1, :sessions) n ON n % u.all_of + 1 = u.place
"""
_HELD = """
INSERT INTO kernels (id, session_id, role, idx) SELECT gen_random_uuid(), id, 'main', 1 FROM sessions
    WHERE status = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM kernels WHERE session_id = sessions.id);
INSERT INTO allocations (kernel_id, attempt, slot, session_id, agent_id, amount)
    SELECT k.id, 0, 'cpu', k.session_id, 'n1', 1000 FROM kernels k
    WHERE NOT EXISTS (SELECT 1 FROM allocations WHERE kernel_id = k.id);
"""


async def fill(engine: AsyncEngine, run: str, **of_domain: int) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        for domain, count in of_domain.items():
            await connection.execute(text(_SESSIONS), {"run": run, "domain": domain, "sessions": count})
        await several(connection, _HELD)
    async with engine.connect() as connection:
        vacuum = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await vacuum.execute(text("VACUUM ANALYZE"))


async def several(connection: Any, statements: str) -> None:
    for statement in statements.split(";\n"):
        if statement.strip():
            await connection.execute(text(statement))


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[AsyncEngine]:
    """With a single connection, so that everything that is asked can be heard on it."""
    engine = connect(database_url, pool_size=1)
    yield engine
    await engine.dispose()


class Heard:
    """The statements about sessions that a call asks, with their values."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.statements: list[tuple[str, tuple[Any, ...]]] = []

    async def plans(self, ask: Ask, who: Principal) -> list[Plan]:
        self.statements.clear()
        event.listen(self._engine.sync_engine, "before_cursor_execute", self._executed)
        async with reading(self._engine) as connection:
            connection.add_query_logger(self._logged)
        try:
            await ask(self._engine, who)
        finally:
            event.remove(self._engine.sync_engine, "before_cursor_execute", self._executed)
        await asyncio.sleep(0)  # the driver tells its loggers a turn later
        async with reading(self._engine) as connection:
            connection.remove_query_logger(self._logged)
            return [await self._plan(connection, *one) for one in self.statements]

    async def _plan(self, connection: Any, statement: str, values: tuple[Any, ...]) -> Plan:
        [row] = await connection.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", *values)
        found = json.loads(row[0]) if isinstance(row[0], str) else row[0]
        plan: Plan = found[0]["Plan"]
        return plan

    def _logged(self, query: Any) -> None:
        self._keep(query.query, tuple(query.args or ()))

    def _executed(self, _c: Any, _k: Any, statement: str, values: Any, *_: Any) -> None:
        self._keep(statement, tuple(values))

    def _keep(self, statement: str, values: tuple[Any, ...]) -> None:
        if "FROM sessions" in statement and (statement, values) not in self.statements:
            self.statements.append((statement, values))


def nodes_of(plan: Plan) -> Iterator[Plan]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes_of(below)


def rows_of_sessions(plans: list[Plan]) -> int:
    """How many rows of sessions were looked at, by index or not."""
    looked = 0
    for plan in plans:
        for node in nodes_of(plan):
            if node.get("Relation Name") != "sessions":
                continue
            assert node["Node Type"] != "Seq Scan", node
            read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            read += node.get("Rows Removed by Index Recheck", 0)
            looked += round(read * node["Actual Loops"])
    return looked


def page(**wanted: Any) -> Ask:
    defaults: dict[str, Any] = {"statuses": (), "include_ended": False, "name": None, "limit": 20, "offset": 0}

    async def ask(engine: AsyncEngine, who: Principal) -> object:
        return await sessions.page(engine, who, **{**defaults, **wanted})

    return ask


def found(ref: str) -> Ask:
    async def ask(engine: AsyncEngine, who: Principal) -> None:
        with suppress(NotFound, Conflict):
            await sessions.find(engine, who, ref)

    return ask


async def pending(engine: AsyncEngine, who: Principal) -> None:
    async with engine.connect() as connection:
        for scope in Scope:
            await limits._pending(connection, scope, who, ["cpu"])


async def queued(engine: AsyncEngine, who: Principal) -> None:
    await sessions.waiting(engine, who, ["5b1e0000-0000-4000-8000-000000000001"])


ASKED: dict[str, Ask] = {
    "live sessions": page(),
    "all sessions": page(include_ended=True),
    "those that run": page(statuses=["RUNNING"]),
    "those of a name": page(name="s1-first", include_ended=True),
    "a page far behind and the count": page(include_ended=True, offset=10**6),
    "one by name": found("s9-first"),
    "one by name, of others": found("s77-then"),
    "one by the beginning of its id": found("5b1e"),
    "one by its id": found("5b1e0000-0000-4000-8000-000000000001"),
    "what is used of the quotas": quotas.own,
    "how many wait": pending,
    "what a queue shows": queued,
}
WHO = {"a user": "u4@mine", "a project's admin": "u2@mine", "a domain's admin": "u3@mine"}


async def test_no_tenants_query_grows_with_the_sessions_of_others(one: AsyncEngine) -> None:
    async with one.begin() as connection:
        await several(connection, _TENANTS)
    await fill(one, "first", mine=1000, other=9_000)
    before = await looked_at(one)
    await fill(one, "then", other=90_000)
    after = await looked_at(one)
    # Of its own rows it may choose another index; nine more of others for each of those would be far beyond that.
    grown = {
        name: (before[name], rows) for name, rows in after.items() if rows > before[name] + 0.25 * before[name] + 25
    }
    assert grown == {}


async def looked_at(engine: AsyncEngine) -> dict[tuple[str, str], int]:
    heard, rows = Heard(engine), {}
    for who, email in WHO.items():
        asker = await principals.by_email(engine, email)
        assert asker is not None
        for name, ask in ASKED.items():
            plans = await heard.plans(ask, asker[0])
            assert plans, name
            rows[who, name] = rows_of_sessions(plans)
    return rows
