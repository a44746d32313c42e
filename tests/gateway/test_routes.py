"""The gateway over HTTP, on a real PostgreSQL; Temporal is a recording fake."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from api.deps import OPEN_ROUTES
from api.main import build
from moorage.contracts.activities import Cancel
from moorage.db import nodes, tenancy
from moorage.seal import Seal
from moorage.settings import Settings
from tests.support.builders import KEYS, an_agent

BATCH = {"image": "busybox", "type": "batch", "command": ["true"]}


@dataclass
class RecordedLives:
    begun: list[str] = field(default_factory=list)
    cancelled: list[Cancel] = field(default_factory=list)

    async def begin(self, row: Mapping[str, Any]) -> None:
        self.begun.append(str(row["id"]))

    async def cancel(self, row: Mapping[str, Any], cancel: Cancel) -> bool:
        self.cancelled.append(cancel)
        return True

    async def is_reachable(self) -> bool:
        return True


@dataclass
class Gateway:
    ada: httpx.AsyncClient
    eve: httpx.AsyncClient
    anyone: httpx.AsyncClient
    lives: RecordedLives
    openapi: dict[str, Any]


@pytest.fixture
async def gateway(database_url: str, engine: AsyncEngine) -> AsyncIterator[Gateway]:
    lives = RecordedLives()
    app = build(
        Settings(database_url=database_url, payload_keys=KEYS, jwt_key="j" * 32, dataplane_key="d" * 32), lives=lives
    )
    seal = Seal(KEYS)
    ada = await tenancy.create_user(engine, seal, "ada@example.org", "correct horse")
    eve = await tenancy.create_user(engine, seal, "eve@example.org", "battery staple")

    def client(auth: tuple[str, str] | None) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://moorage", auth=auth)

    async with app.router.lifespan_context(app), client(ada) as a, client(eve) as e, client(None) as n:
        yield Gateway(a, e, n, lives, app.openapi())


def code_of(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["title"]
    return str(problem["code"])


async def test_every_route_but_the_open_ones_asks_who_one_is(gateway: Gateway) -> None:
    for path, operations in gateway.openapi["paths"].items():
        for method in operations:
            answer = await gateway.anyone.request(method, path.replace("{ref}", "any"), json=None)
            if path not in OPEN_ROUTES:
                assert code_of(answer, 401) == "auth-failed"


async def test_a_token_from_log_in_opens_the_door_and_a_changed_one_does_not(gateway: Gateway) -> None:
    login = {"email": "ada@example.org", "password": "correct horse"}
    token = (await gateway.anyone.post("/auth/login", json=login)).json()["token"]
    answer = await gateway.anyone.get("/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    unsigned = "eyJhbGciOiJub25lIn0." + token.split(".")[1] + "."
    for wrong in (token[:-4] + "AAAA", unsigned, "nonsense"):
        answer = await gateway.anyone.get("/session", headers={"Authorization": f"Bearer {wrong}"})
        assert code_of(answer, 401) == "auth-failed"


async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(gateway: Gateway) -> None:
    wrong = await gateway.anyone.post("/auth/login", json={"email": "ada@example.org", "password": "x"})
    nobody = await gateway.anyone.post("/auth/login", json={"email": "nobody@example.org", "password": "x"})
    assert code_of(wrong, 401) == code_of(nobody, 401)
    assert wrong.json() == nobody.json()


async def test_a_submitted_session_waits_and_its_environment_is_not_shown(gateway: Gateway) -> None:
    answer = await gateway.ada.post("/session", json={**BATCH, "name": "work", "env": {"TOKEN": "s3cret"}})
    assert answer.status_code == 201
    session = answer.json()
    assert (session["status"], session["name"], session["slots"]["cpu"]) == ("PENDING", "work", 1000)
    for path in ("/session", "/session/work", f"/session/{session['id']}", "/session/work/events"):
        shown = await gateway.ada.get(path)
        assert shown.status_code == 200
        assert "s3cret" not in shown.text


async def test_the_same_key_and_request_make_one_session(gateway: Gateway) -> None:
    key = {"Idempotency-Key": "k1"}
    first = await gateway.ada.post("/session", json=BATCH, headers=key)
    again = await gateway.ada.post("/session", json=BATCH, headers=key)
    assert first.json()["id"] == again.json()["id"]
    other = await gateway.ada.post("/session", json={**BATCH, "priority": 20}, headers=key)
    assert code_of(other, 409) == "idempotency-key-reused"


async def test_a_name_in_use_is_refused_with_the_one_that_has_it(gateway: Gateway) -> None:
    first = await gateway.ada.post("/session", json={**BATCH, "name": "work"})
    second = await gateway.ada.post("/session", json={**BATCH, "name": "work"})
    assert code_of(second, 409) == "session-already-exists"
    assert second.json()["data"]["existingSessionId"] == first.json()["id"]


@pytest.mark.parametrize(
    ("wish", "status", "code"),
    [
        ({**BATCH, "resources": {"mem": "12q"}}, 400, "malformed-size"),
        ({**BATCH, "resources": {"cpu": "-1"}}, 400, "malformed-size"),
        ({**BATCH, "resources": {"cpu": "nan"}}, 400, "malformed-size"),
        ({**BATCH, "resources": {"mem": "1k"}}, 400, "malformed-size"),
        ({**BATCH, "resources": {"tpu": "1"}}, 400, "unknown-slot"),
        ({**BATCH, "colour": "red"}, 400, "invalid-api-params"),
        ({**BATCH, "name": "no"}, 400, "invalid-name"),
        ({**BATCH, "command": []}, 400, "invalid-api-params"),
        ({**BATCH, "priority": 101}, 400, "invalid-api-params"),
        ({**BATCH, "resource_group": "nowhere"}, 400, "unknown-resource-group"),
        ({**BATCH, "env": {"A": "x\0y"}}, 400, "invalid-api-params"),
        ({**BATCH, "env": {"A": "x" * 70_000}}, 400, "invalid-api-params"),
        ({**BATCH, "command": ["x" * 2_000_000]}, 413, "body-too-large"),
    ],
)
async def test_bad_input_is_refused_and_changes_nothing(
    gateway: Gateway, wish: dict[str, Any], status: int, code: str
) -> None:
    assert code_of(await gateway.ada.post("/session", json=wish), status) == code
    assert (await gateway.ada.get("/session?all=true")).json()["total"] == 0


async def test_more_than_any_node_has_is_refused_with_what_the_largest_has(
    gateway: Gateway, engine: AsyncEngine
) -> None:
    await nodes.register(engine, an_agent(cpu=4000))
    answer = await gateway.ada.post("/session", json={**BATCH, "resources": {"cpu": "5"}})
    assert code_of(answer, 422) == "unsatisfiable"
    assert "asked cpu 5" in answer.json()["msg"]
    assert "largest node has cpu 4" in answer.json()["msg"]


async def test_somebody_elses_session_does_not_exist_for_others(gateway: Gateway) -> None:
    session_id = (await gateway.ada.post("/session", json={**BATCH, "name": "work"})).json()["id"]
    for ref in (session_id, "work", session_id[:8]):
        assert code_of(await gateway.eve.get(f"/session/{ref}"), 404) == "object-not-found"
        assert code_of(await gateway.eve.delete(f"/session/{ref}"), 404) == "object-not-found"
    assert (await gateway.eve.get("/session?all=true")).json()["total"] == 0
    assert gateway.lives.cancelled == []


async def test_a_stop_says_who_asked(gateway: Gateway) -> None:
    await gateway.ada.post("/session", json={**BATCH, "name": "work"})
    assert (await gateway.ada.delete("/session/work?forced=true")).status_code == 202
    [cancel] = gateway.lives.cancelled
    assert (cancel.reason, cancel.actor, cancel.forced) == ("force-terminated", "user:ada@example.org", True)


async def test_what_does_not_exist_is_a_problem_too(gateway: Gateway) -> None:
    assert code_of(await gateway.ada.get("/nowhere"), 404) == "route-not-found"
    assert code_of(await gateway.ada.put("/session"), 405) == "method-not-allowed"
    assert code_of(await gateway.ada.get("/session/none/logs"), 404) == "object-not-found"
