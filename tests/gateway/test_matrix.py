"""Who may do what, on every route and every GraphQL field, over HTTP: the table of tests/support/matrix.py against the
gateway.

Each asker tries each request on its own thing, and on those of somebody in its project, in its domain, and elsewhere.
401, 403 and 404 are denials; whatever else is answered was allowed. What one may not even read is answered as if it did
not exist.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.permissions import FIELDS, OPEN, ROUTES, SIGNED_IN
from tests.support.gateway import Gateway
from tests.support.matrix import ASKERS, FIELD_CASES, MAY, ROUTE_CASES, TARGETS, Case
from tests.support.two_domains import Person, Tenants, newcomer, settle
from tests.support.websocket import knock

_DENIED = frozenset({401, 403, 404})
_GHOSTS = dict.fromkeys(("session", "assignment", "grant", "project"), "00000000-0000-4000-8000-00000000dead") | {
    "email": "ghost@alpha.org", "key": "AKIAGHOST", "spare": "AKIAGHOST", "token": "ghost", "domain": "ghost",
    "path": "alpha/ghost", "bare": "ghost",
}  # fmt: skip


def test_every_route_and_every_field_stands_in_the_table() -> None:
    assert set(ROUTE_CASES) == {line for line, needed in ROUTES.items() if needed not in (OPEN, SIGNED_IN)}
    assert set(FIELD_CASES) == {name for name, needed in FIELDS.items() if needed != SIGNED_IN}


@pytest.mark.parametrize("line", ROUTE_CASES)
async def test_a_route_is_open_to_whom_the_table_says(gateway: Gateway, line: str) -> None:
    await _try_all(gateway, line, ROUTE_CASES[line])


@pytest.mark.parametrize("name", FIELD_CASES)
async def test_a_field_is_open_to_whom_the_table_says(gateway: Gateway, name: str) -> None:
    await _try_all(gateway, name, FIELD_CASES[name])


async def _try_all(gateway: Gateway, line: str, case: Case) -> None:
    tenants = await settle(gateway.engine)
    await _spares(gateway)
    for number, asker in enumerate(ASKERS):
        allowed = MAY[case.kind][case.may][number]
        readable = MAY[case.kind][case.read][number] if case.read else None
        for target in TARGETS[case.kind]:
            things = await _things(gateway, tenants, asker, target, case)
            status, code = await _ask(gateway, line, case, things, tenants[asker])
            where = f"{asker} on {target}: {line} answers {status} {code}"
            assert (status not in _DENIED) == (target in allowed), where
            if readable is not None and target not in readable:
                ghost = await _ask(gateway, line, case, things | _GHOSTS, tenants[asker])
                assert (status, code) == ghost, f"{where}, for what does not exist {ghost}"


async def _ask(gateway: Gateway, line: str, case: Case, things: Mapping[str, str], who: Person) -> tuple[int, str]:
    if "." in line:
        return await _ask_field(gateway, line, case, things, who)
    method = line.split()[0]
    if method == "WEBSOCKET":
        status, problem = await knock(gateway.app, case.path.format_map(things), who.headers)
        return status, str(problem.get("code", ""))
    answer = await gateway.http.request(
        method, case.path.format_map(things), json=_filled(case.body, things), headers=who.headers
    )
    return answer.status_code, _code(answer)


async def _ask_field(
    gateway: Gateway, line: str, case: Case, things: Mapping[str, str], who: Person
) -> tuple[int, str]:
    """A single thing that is null counts as not found."""
    root, name = line.split(".")
    words = f"{root.lower()} {{ {name}{case.path.format_map(things)} }}"
    answer = (await gateway.http.post("/graphql", json={"query": words}, headers=who.headers)).json()
    if "errors" in answer:
        extensions = answer["errors"][0].get("extensions", {})
        assert "status" in extensions, answer
        return extensions["status"], extensions["code"]
    found = answer["data"][name]
    return (404, "none") if found is None or (found == [] and case.kind != "cluster") else (200, "")


def _filled(value: Any, things: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(one, things) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, things) for one in value]
    return value.format_map(things) if isinstance(value, str) else value


def _code(answer: httpx.Response) -> str:
    is_problem = answer.headers.get("content-type") == "application/problem+json"
    return str(answer.json()["code"]) if is_problem else ""


async def _things(gateway: Gateway, tenants: Tenants, asker: str, target: str, case: Case) -> dict[str, str]:
    """Something of everything, of the target: a new person in its place, or the asker itself."""
    owner = tenants[asker] if target == "own" else await newcomer(gateway.engine, tenants, target)
    found = {
        "email": owner.email, "key": owner.access_key, "project": owner.project_id, "path": owner.project,
        "domain": owner.domain, "bare": owner.project.split("/")[1], "fresh": f"x{uuid.uuid4().hex[:10]}",
        "token": uuid.uuid4().hex, "spare": f"AKIA{uuid.uuid4().hex[:16].upper()}",
        **{name: str(uuid.uuid4()) for name in ("session", "grant", "assignment", "order")},
    }  # fmt: skip
    async with gateway.engine.begin() as connection:
        for statement in _THINGS:
            await connection.execute(text(statement), {**found, "user": owner.user_id})
    return found


async def _spares(gateway: Gateway) -> None:
    async with gateway.engine.begin() as connection:
        for statement in (
            "INSERT INTO agents (id, resource_group, status, address, architecture, runtime, hostname, version,"
            " incarnation) VALUES ('n1', 'default', 'ALIVE', '', 'x86_64', 'simulated', 'n1', '0', '1')",
            "INSERT INTO agent_slots (agent_id, slot, capacity, offered)"
            " VALUES ('n1', 'cpu', 64000, 64000), ('n1', 'mem', 1099511627776, 1099511627776)",
        ):
            await connection.execute(text(statement))


_THINGS = (
    "INSERT INTO sessions (id, name, user_id, project_id, domain, access_key, resource_group, type, image, command,"
    " slots, priority, on_node_loss, pending_timeout_s, lifetime_s, batch_timeout_s, grace_s, status, result, attempt)"
    " VALUES (CAST(:session AS uuid), :fresh, CAST(:user AS uuid), CAST(:project AS uuid), :domain, :key,"
    " 'default', 'batch', 'python', ARRAY['true'], '{\"cpu\": 1000, \"mem\": 268435456}', 10, 'fail', 0, 0, 0, 10,"
    " 'PENDING', 'UNDEFINED', 0)",
    "INSERT INTO kernels (id, session_id, role, idx) VALUES (gen_random_uuid(), CAST(:session AS uuid), 'main', 1)",
    "INSERT INTO keypairs (access_key, user_id, secret) VALUES (:spare, CAST(:user AS uuid), '')",
    "INSERT INTO tokens (id, user_id, name, hash, permissions, expires_at)"
    " VALUES (:token, CAST(:user AS uuid), :fresh, '', '{}', now() + interval '1 day')",
    "INSERT INTO role_assignments (id, user_id, role, scope_kind, scope_id, granted_by)"
    " VALUES (CAST(:assignment AS uuid), CAST(:user AS uuid), 'member', 'project', :project, 'test')"
    " ON CONFLICT (user_id, role, scope_kind, scope_id) DO UPDATE SET id = excluded.id",
    "INSERT INTO limits (scope, name, max_sessions) VALUES ('user', :email, 5) ON CONFLICT DO NOTHING",
    "INSERT INTO grants (id, scope, name, slot, amount, starts_at, ends_at, given_by) VALUES (CAST(:grant AS uuid),"
    " 'user', :email, 'sessions', 1, now(), now() + interval '1 day', 'test')",
    "INSERT INTO secrets (id, project_id, name, value, created_by) VALUES (gen_random_uuid(), CAST(:project AS uuid),"
    " 'old', '', 'test') ON CONFLICT DO NOTHING",
    "INSERT INTO image_orders (id, kind, image, target, asked_by)"
    " VALUES (CAST(:order AS uuid), 'pull', :fresh, 'all', 'test')",
    "INSERT INTO allowed_images (domain, pattern, created_by) VALUES (NULL, 'spare', 'test'), (NULL, '*', 'test')"
    " ON CONFLICT DO NOTHING",
    "INSERT INTO registries (host, username, password, created_by) VALUES ('spare.example', 'x', '', 'test')"
    " ON CONFLICT DO NOTHING",
    "INSERT INTO roles (name, permissions) VALUES ('spare', '{session:read}') ON CONFLICT DO NOTHING",
    "INSERT INTO policies (kind, name) VALUES ('user', 'spare') ON CONFLICT DO NOTHING",
    "INSERT INTO resource_groups (name, policy, selector) VALUES ('spare', 'fifo', 'dispersed')"
    " ON CONFLICT (name) DO UPDATE SET removed_at = NULL",
)
