"""What is asked of a running session over REST: the workflow is asked, and what it answers is passed on."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from api.lives import NotYetAnswered
from moorage.contracts.activities import Answer, Commit, Resize, Restart
from tests.support.gateway import Gateway

MIB = 1024**2
VERBS = [
    ("POST", "resize", {"resources": {"cpu": "2"}}),
    ("POST", "restart", None),
    ("PATCH", "", None),
    ("POST", "commit", {"image": "mine:1"}),
]


async def running(gateway: Gateway) -> str:
    session = await gateway.submitted(name="mine", resources={"cpu": "1", "mem": "256m"})
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE sessions SET status = 'RUNNING'"))
    return str(session["id"])


async def asked(gateway: Gateway, verb: str, body: Any = None, *, method: str = "POST") -> tuple[int, dict[str, Any]]:
    path = f"/session/mine/{verb}".rstrip("/")
    answer = await gateway.ask(method, path, body, who=gateway.ada)
    found: dict[str, Any] = answer.json()
    return answer.status_code, found


async def test_what_is_not_named_stays_as_it_is(gateway: Gateway) -> None:
    session_id = await running(gateway)
    gateway.lives.answer = Answer(True, data={"slots": {}, "restarted": False})
    status, shown = await asked(gateway, "resize", {"resources": {"cpu": "2"}})
    assert (status, shown["id"], shown["restarted"]) == (200, session_id, False)
    await asked(gateway, "resize", {"resources": {"mem": "1g", "cuda.device": 0}, "move": True})
    assert gateway.lives.asked == [
        (session_id, "resize", Resize({"cpu": 2000, "mem": 256 * MIB}, "user:ada@example.org")),
        (session_id, "resize", Resize({"cpu": 1000, "mem": 1024 * MIB}, "user:ada@example.org", move=True)),
    ]


async def test_what_it_has_already_is_asked_of_nobody(gateway: Gateway) -> None:
    await running(gateway)
    status, shown = await asked(gateway, "resize", {"resources": {"cpu": "1.0"}})
    assert (status, shown["slots"]["cpu"]) == (200, 1000)
    assert gateway.lives.asked == []


async def test_a_bad_wish_is_refused_before_anybody_is_asked(gateway: Gateway) -> None:
    await running(gateway)
    for body, code in (
        ({"resources": {"cpu": "0.001"}}, "malformed-size"),
        ({"resources": {"mem": 0}}, "malformed-size"),
        ({"resources": {"cpu": "lots"}}, "malformed-size"),
        ({"resources": {"cuda.device": 1, "cuda.shares": 0.5}}, "exclusive-slots"),
        ({"resources": {}}, "invalid-api-params"),
        ({"cpu": 2}, "invalid-api-params"),
    ):
        status, problem = await asked(gateway, "resize", body)
        assert (status, problem["code"], gateway.lives.asked) == (400, code, []), body


async def test_a_refusal_has_its_code_numbers_and_hint(gateway: Gateway) -> None:
    await running(gateway)
    for code, expected in (("no-room-on-node", 409), ("unsatisfiable", 422), ("unknown-slot", 400)):
        gateway.lives.answer = Answer(False, code, "no", {"possible": {"cpu": 3000}}, "ask for less")
        status, problem = await asked(gateway, "resize", {"resources": {"cpu": "9"}})
        assert (status, problem["code"], problem["msg"], problem["hint"]) == (expected, code, "no", "ask for less")
        assert problem["data"] == {"possible": {"cpu": 3000}}


async def test_both_ways_to_restart_are_the_same(gateway: Gateway) -> None:
    session_id = await running(gateway)
    for method, verb in (("POST", "restart"), ("PATCH", "")):
        status, shown = await asked(gateway, verb, method=method)
        assert (status, shown["id"]) == (200, session_id)
    assert gateway.lives.asked == 2 * [(session_id, "restart", Restart("user:ada@example.org"))]


async def test_a_commit_gets_a_name_that_no_registry_has(gateway: Gateway) -> None:
    session_id = await running(gateway)
    gateway.lives.answer = Answer(True, data={"image": "committed.local/mine:1", "agent": "n1", "bytes": 7})
    assert await asked(gateway, "commit", {"image": "mine:1"}) == (200, gateway.lives.answer.data)
    for name in ("mine", "team/mine:v2.1", "committed.local/mine:1"):
        await asked(gateway, "commit", {"image": name})
    assert [wish.image for _, _, wish in gateway.lives.asked if isinstance(wish, Commit)] == [
        f"committed.local/{name}" for name in ("mine:1", "mine:latest", "team/mine:v2.1", "mine:1")
    ]
    assert {session for session, _, _ in gateway.lives.asked} == {session_id}


async def test_a_name_that_could_hide_anothers_image_is_refused(gateway: Gateway) -> None:
    await running(gateway)
    bad = ("Mine", "docker.io/library/python", "mine:", "a b", "mine@sha256:00", "../x", "localhost/x", "x" * 300)
    for name in bad:
        status, problem = await asked(gateway, "commit", {"image": name})
        assert (status, problem["code"], gateway.lives.asked) == (400, "malformed-image-name", []), name


async def test_only_what_runs_is_asked(gateway: Gateway) -> None:
    await gateway.submitted(name="mine")
    for method, verb, body in VERBS:
        status, problem = await asked(gateway, verb, body, method=method)
        assert (status, problem["code"], gateway.lives.asked) == (409, "session-not-running", [])
        assert "is PENDING" in problem["msg"]


async def test_what_takes_long_is_accepted_and_goes_on(gateway: Gateway) -> None:
    await running(gateway)
    gateway.lives.answer = NotYetAnswered("still at it")
    for method, verb, body in VERBS:
        status, shown = await asked(gateway, verb, body, method=method)
        assert (status, shown["answered"]) == (202, False)
    assert len(gateway.lives.asked) == len(VERBS)


async def test_it_is_in_the_audit_before_it_is_asked(gateway: Gateway) -> None:
    session_id = await running(gateway)
    gateway.lives.answer = Answer(False, "update-refused", "no")
    for method, verb, body in VERBS:
        await asked(gateway, verb, body, method=method)
    for operation, times in (("session:update", 3), ("session:commit", 1)):
        found = (await gateway.get("/audit", gateway.root, operation=operation)).json()["items"]
        told = [(one["outcome"], one["code"]) for one in reversed(found) if one["entity_id"].startswith(session_id)]
        assert told.count(("asked", "")) == times
