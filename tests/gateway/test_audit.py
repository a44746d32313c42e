"""Whoever asks for a change stands in the audit, whatever became of it; and who may read that."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api.rates import InMemory, Rates
from api.recorded import Floods
from moorage.contracts.activities import Cancel
from moorage.db import nodes
from moorage.domain.chain import Chain
from tests.support.builders import an_agent
from tests.support.gateway import WISH, Gateway, access_key_of, refused

RUNNING = {"image": "python:3.12", "type": "interactive"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def rows(gateway: Gateway, who: dict[str, str] | None = None, **which: str) -> list[dict[str, Any]]:
    answer = await gateway.get("/audit", who or gateway.root, order="asc", **which)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def told(gateway: Gateway, **which: str) -> list[tuple[str, ...]]:
    return [
        (one["actor"].split("@")[0], one["operation"], one["entity_id"], one["outcome"], one["code"])
        for one in await rows(gateway, None, **which)
    ]


async def without_audit(gateway: Gateway) -> None:
    """The database takes no rows of it any more."""
    async with gateway.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE audit ADD CONSTRAINT full_up CHECK (false) NOT VALID"))


async def test_a_new_session_is_written_without_its_secrets(gateway: Gateway) -> None:
    made = await gateway.submitted(env={"TOKEN": "hunter2"}, command=["login", "hunter3"], name="train")
    (row,) = await rows(gateway)
    assert (row["actor"], row["operation"], row["entity_id"]) == ("ada@example.org", "session:create", made["id"])
    assert (row["outcome"], row["before"], row["after"]["name"]) == ("success", None, "train")
    assert row["project_id"]
    assert "hunter" not in json.dumps(row)


async def test_the_same_request_again_is_written_but_makes_nothing(gateway: Gateway) -> None:
    headers = {**gateway.ada, "Idempotency-Key": "once"}
    for _ in range(2):
        await gateway.http.post("/session", json=WISH, headers=headers)
    first, second = await rows(gateway)
    assert first["after"]
    assert (second["after"], second["outcome"]) == (None, "success")


async def test_a_group_is_written_before_and_after(gateway: Gateway) -> None:
    await gateway.ask("POST", "/resource-group", {"name": "gpu", "description": "one"})
    await gateway.ask("PATCH", "/resource-group/gpu", {"description": "two"})
    await gateway.ask("DELETE", "/resource-group/gpu")
    made, changed, removed = await rows(gateway, entity="resource-group")
    assert (made["operation"], made["before"], made["after"]["description"]) == ("resource-group:create", None, "one")
    assert (changed["before"]["description"], changed["after"]["description"]) == ("one", "two")
    assert (removed["before"]["description"], removed["after"]) == ("two", None)


async def test_a_node_that_is_cordoned_or_drained_is_written(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    await gateway.ask("PATCH", "/agent/n1", {"schedulable": False})
    await gateway.ask("POST", "/agent/n1/drain")
    gateway.lives.without_workflow.add("n1")
    await gateway.ask("POST", "/agent/n1/drain")
    cordoned, drained, again, failed = await rows(gateway)
    assert (cordoned["before"], cordoned["after"]) == ({"schedulable": True}, {"schedulable": False})
    assert drained["after"] == again["after"] == {"schedulable": False, "drained": True}
    assert (failed["outcome"], failed["code"]) == ("refused", "agent-without-workflow")


async def test_a_stop_is_written_as_asked_for_its_owner_to_see(gateway: Gateway) -> None:
    made = await gateway.submitted()
    await gateway.ask("DELETE", f"/session/{made['id']}?forced=true")
    row = (await rows(gateway, gateway.ada, operation="session:delete"))[-1]
    assert (row["actor"], row["entity_id"], row["outcome"]) == ("root@example.org", made["id"], "asked")
    assert row["after"] == {"forced": True}


async def test_a_command_is_written_without_its_arguments(gateway: Gateway) -> None:
    made = await gateway.submitted(None, **RUNNING)
    await nodes.register(gateway.engine, an_agent("n1"))
    async with gateway.engine.begin() as connection:
        await connection.execute(text("SET LOCAL session_replication_role = replica"))
        await connection.execute(text("UPDATE sessions SET status = 'RUNNING', agent_id = 'n1'"))
        await connection.execute(text("UPDATE kernels SET agent_id = 'n1', container_id = 'c1'"))
    await gateway.ask("POST", f"/session/{made['id']}/exec", {"command": ["mysql", "-phunter2"]}, gateway.ada)
    asked, failed = await rows(gateway, operation="session:execute")
    assert (asked["after"], asked["outcome"]) == ({"program": "mysql"}, "asked")
    assert (failed["outcome"], failed["code"]) == ("failed", "unavailable")
    assert "hunter" not in json.dumps([asked, failed])


async def test_without_its_row_nothing_is_changed_and_no_signal_sent(gateway: Gateway) -> None:
    made = await gateway.submitted()
    await nodes.register(gateway.engine, an_agent("n1"))
    await without_audit(gateway)
    for method, path, body in (
        ("POST", "/session", WISH),
        ("DELETE", f"/session/{made['id']}", None),
        ("POST", "/resource-group", {"name": "gpu"}),
        ("PATCH", "/resource-group/default", {"description": "x"}),
        ("PATCH", "/agent/n1", {"schedulable": False}),
        ("POST", "/agent/n1/drain", None),
    ):
        assert (await gateway.ask(method, path, body)).status_code == 500, path
    assert (await gateway.get("/session", gateway.root, all="true")).json()["total"] == 1
    assert (gateway.lives.cancelled, gateway.lives.drained) == ([], [])
    assert (await gateway.get("/resource-group/gpu", gateway.root)).status_code == 404
    assert (await gateway.get("/agent", gateway.root)).json()["items"][0]["schedulable"] is True


async def test_what_is_refused_stays_refused_without_its_row(gateway: Gateway) -> None:
    await without_audit(gateway)
    refused(await gateway.ask("POST", "/resource-group", {"name": "x"}, gateway.ada), 403, "forbidden")
    refused(await gateway.ask("DELETE", "/session/none"), 404, "object-not-found")


async def test_a_signal_that_fails_is_written_twice(gateway: Gateway) -> None:
    made = await gateway.submitted()

    async def lost(row: object, cancel: Cancel) -> bool:
        raise OSError("no route to Temporal")

    gateway.lives.cancel = lost  # type: ignore[method-assign]
    await gateway.ask("DELETE", f"/session/{made['id']}", who=gateway.ada)
    assert [one[3:] for one in await told(gateway, operation="session:delete")] == [
        ("asked", ""),
        ("failed", "unavailable"),
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "row"),
    [
        ("POST", "/resource-group", {"name": "x"}, ("resource-group:create", "", "denied", "forbidden")),
        ("PUT", "/limit/user/x@y.z", {}, ("limit:update", "user/x@y.z", "denied", "forbidden")),
        ("GET", "/resource-group/default/replay", None, ("resource-group:simulate", "default", "denied", "forbidden")),
        ("DELETE", "/session/no-such", None, ("session:delete", "no-such", "refused", "object-not-found")),
        ("POST", "/session", {**WISH, "resource_group": "x"}, ("session:create", "", "refused", "")),
        ("POST", "/session", {**WISH, "resources": {"cpu": 4096}}, ("session:create", "", "refused", "")),
        ("POST", "/session", {"image": 1}, ("session:create", "", "refused", "invalid-api-params")),
    ],
)  # fmt: skip
async def test_what_was_denied_or_refused_is_written(
    gateway: Gateway, method: str, path: str, body: Any, row: tuple[str, ...]
) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    answer = await gateway.ask(method, path, body, gateway.ada)
    assert answer.status_code >= 400
    (written,) = await told(gateway)
    assert written[:4] == ("ada", *row[:3])
    assert written[4] == (row[3] or answer.json()["code"])


async def test_reads_and_questions_are_not_written(gateway: Gateway) -> None:
    await gateway.get("/session")
    await gateway.get("/session/none")
    await gateway.ask("POST", "/plan", {"image": "x"}, gateway.ada)
    await gateway.http.post("/nowhere", json={})
    assert await rows(gateway) == []


async def test_a_request_id_leads_from_the_answer_to_the_row(gateway: Gateway) -> None:
    answer = await gateway.submit()
    (row,) = await rows(gateway)
    assert row["request_id"] == answer.headers["X-Request-Id"]
    assert row["address"] == "127.0.0.1"


async def test_a_failed_log_in_is_written(gateway: Gateway) -> None:
    await gateway.http.post("/auth/login", json={"email": "ada@example.org", "password": "wrong"})
    ada = (await gateway.ask("GET", "/user/ada@example.org")).json()["id"]
    assert await told(gateway, entity="auth") == [("", "auth:login", ada, "denied", "auth-failed")]


async def test_a_flood_of_refused_authentication_is_one_row_a_minute(gateway: Gateway) -> None:
    clock = Clock()
    gateway.app.state.parts.floods = Floods(clock)
    for _ in range(5):
        await gateway.http.get("/session")
    assert [(one["outcome"], one["count"]) for one in await rows(gateway)] == [("denied", 1)]
    clock.now += 61
    await gateway.http.get("/health/live")
    assert [one["count"] for one in await rows(gateway)] == [1, 4]
    for _ in range(3):
        await gateway.http.get("/session")
    clock.now += 61
    assert [one["count"] for one in await rows(gateway)] == [1, 4]
    await gateway.http.get("/health/live")
    assert [one["count"] for one in await rows(gateway)] == [1, 4, 3]


async def test_who_makes_too_many_requests_does_not_fill_the_audit(gateway: Gateway) -> None:
    clock = Clock()
    gateway.app.state.parts.floods = Floods(clock)
    gateway.app.state.parts.rates = Rates(InMemory(clock), anonymous=0, clock=clock)
    async with gateway.engine.begin() as connection:
        key = access_key_of(gateway.ada)
        await connection.execute(text("UPDATE keypairs SET rate_limit = 1 WHERE access_key = :key"), {"key": key})
    for _ in range(6):
        await gateway.submit()
    assert [one[3:] for one in await told(gateway)] == [("success", ""), ("refused", "too-many-requests")]
    clock.now += 61
    await gateway.get("/resource", gateway.root)
    assert [(one["count"], one["actor"]) for one in await rows(gateway)][-1] == (4, "ada@example.org")


async def test_many_addresses_share_a_row(monkeypatch: pytest.MonkeyPatch, gateway: Gateway) -> None:
    monkeypatch.setattr("api.recorded._ADDRESSES", 3)
    for number in range(10):
        transport = httpx.ASGITransport(gateway.app, client=(f"192.0.2.{number}", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as http:
            await http.get("/session")
    assert [one["address"] for one in await rows(gateway)] == [f"192.0.2.{number}" for number in range(4)]


async def test_forged_lines_stay_in_their_row(gateway: Gateway) -> None:
    await gateway.http.delete(
        "/session/x%0D%0A2026 root session:create%00%1b", headers={**gateway.ada, "User-Agent": "x\ty"}
    )
    (row,) = await rows(gateway)
    assert row["entity_id"] == "x\\r\\n2026 root session:create\\x00\\x1b"


async def test_one_reads_ones_own_rows_and_root_all(gateway: Gateway) -> None:
    await gateway.submitted(gateway.ada)
    await gateway.submitted(gateway.bob)
    assert {one["actor"] for one in await rows(gateway, gateway.ada)} == {"ada@example.org"}
    assert len(await rows(gateway, gateway.root)) == 2
    assert await rows(gateway, gateway.ada, actor="bob@example.org") == []
    exported = await gateway.get("/audit/export", gateway.ada)
    assert len(exported.text.splitlines()) == 1


async def test_pages_follow_each_other_in_both_orders(gateway: Gateway) -> None:
    for _ in range(5):
        await gateway.submitted()
    for order in ("desc", "asc"):
        seen, after = [], None
        while True:
            params = {"order": order, "limit": "2"} | ({"after": str(after)} if after is not None else {})
            page = (await gateway.get("/audit", None, **params)).json()
            seen += [one["seq"] for one in page["items"]]
            if (after := page["next"]) is None:
                break
        assert seen == sorted(range(1, 6), reverse=order == "desc")


async def test_rows_are_found_by_what_they_say(gateway: Gateway) -> None:
    made = await gateway.submitted()
    await gateway.ask("DELETE", f"/session/{made['id']}")
    await gateway.ask("DELETE", "/session/none")

    async def count(**which: str) -> int:
        return len(await rows(gateway, None, **which))

    assert await count(entity="session") == 3
    assert await count(entity_id=made["id"]) == 2
    assert await count(operation="session:create") == 1
    assert await count(outcome="refused") == 1
    assert await count(actor="root@example.org", outcome="asked") == 1
    assert await count(since="1h") == 3
    assert await count(until="1h") == 0
    assert await count(since="2020-01-01T00:00:00Z", until="2100-01-01") == 3
    assert await count(actor="' OR true --") == 0


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"since": "yesterday"}, "malformed-time"),
        ({"outcome": "good"}, "invalid-api-params"),
        ({"limit": "1001"}, "invalid-api-params"),
        ({"order": "seq; DROP TABLE audit"}, "invalid-api-params"),
        ({"after": "-1"}, "invalid-api-params"),
        ({"after": str(2**63)}, "invalid-api-params"),
        ({"actor": "a\0b"}, "invalid-api-params"),
    ],
)
async def test_nonsense_is_refused(gateway: Gateway, params: dict[str, str], code: str) -> None:
    refused(await gateway.get("/audit", None, **params), 400, code)


async def test_an_export_is_a_chain_that_anybody_can_follow(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.submitted()
    answer = await gateway.get("/audit/export", gateway.root)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    chain = Chain()
    for line in map(json.loads, answer.text.splitlines()):
        digest, previous = bytes.fromhex(line["hash"]), bytes.fromhex(line["previous"])
        assert chain.follow(seq=line["seq"], previous=previous, digest=digest, record=line["record"]) is None
    proof = (await gateway.get("/audit/verify", gateway.root)).json()
    assert proof == {"rows": 3, "head": {"seq": 3, "hash": chain.head.hex()}, "broken": None}


async def test_only_who_may_read_all_of_it_proves_it(gateway: Gateway) -> None:
    refused(await gateway.get("/audit/verify", gateway.ada), 403, "forbidden")
    refused(await gateway.get("/audit/verify", gateway.root, expect="1:x"), 400, "malformed-head")
    missing = (await gateway.get("/audit/verify", gateway.root, expect="9:" + "0" * 64)).json()["broken"]
    assert "cut off" in missing["what"]


async def test_a_body_without_a_length_is_counted_as_it_comes(gateway: Gateway) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 65536

    answer = await gateway.http.post("/session", content=chunks(), headers=gateway.ada)
    refused(answer, 413, "body-too-large")
    assert "content-length" not in answer.request.headers
    assert sent < 20
    assert (await gateway.get("/session")).json()["total"] == 0
