"""Who may ask the gateway what, and sessions over HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import permissions
from moorage.db import nodes
from tests.support.builders import GIB, an_agent
from tests.support.gateway import PASSWORD, WISH, Gateway, access_key_of, basic, bearer, refused


async def logged_in(gateway: Gateway) -> str:
    answer = await gateway.http.post("/auth/login", json={"email": "ada@example.org", "password": PASSWORD})
    assert answer.status_code == 200
    return str(answer.json()["token"])


# ---- who asks


async def test_every_route_but_the_open_ones_needs_credentials(gateway: Gateway) -> None:
    asked = 0
    for path, methods in gateway.app.openapi()["paths"].items():
        for method in methods:
            if permissions.is_open(method, path):
                continue
            answer = await gateway.http.request(method.upper(), re.sub(r"{\w+}", "abcd", path))
            refused(answer, 401, "auth-failed")
            assert answer.headers["www-authenticate"] == "Bearer"
            asked += 1
    assert asked >= 8


async def test_open_routes_answer_to_anybody(gateway: Gateway) -> None:
    for line, needed in permissions.ROUTES.items():
        method, path = line.split()
        if method == "GET" and needed == permissions.OPEN:
            answer = await gateway.http.get(path)
            assert answer.status_code == 200 or answer.json()["code"] == "oidc-not-configured", path


async def test_a_token_from_login_opens_the_door(gateway: Gateway) -> None:
    assert (await gateway.get("/session", bearer(await logged_in(gateway)))).status_code == 200


async def test_a_key_pair_opens_the_door(gateway: Gateway) -> None:
    assert (await gateway.get("/session", gateway.ada)).status_code == 200


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"])
async def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(gateway: Gateway, email: str) -> None:
    answer = await gateway.http.post("/auth/login", json={"email": email, "password": "wrong"})
    assert refused(answer, 401, "auth-failed")["title"] == "e-mail or password is wrong"


async def test_a_password_is_never_repeated_in_an_answer(gateway: Gateway) -> None:
    answer = await gateway.http.post("/auth/login", json={"password": "hunter2-secret"})
    refused(answer, 400, "invalid-api-params")
    assert "hunter2-secret" not in answer.text


@pytest.mark.parametrize(
    "authorization",
    ["Basic !!!", "Basic " + base64.b64encode(b"AKIANOBODY:x").decode(), "Basic /w==", "Bearer", "Digest x", "x"],
)
async def test_malformed_credentials_are_refused(gateway: Gateway, authorization: str) -> None:
    refused(await gateway.get("/session", {"Authorization": authorization}), 401, "auth-failed")


async def test_a_wrong_secret_is_refused(gateway: Gateway) -> None:
    refused(await gateway.get("/session", basic(access_key_of(gateway.ada), "wrong")), 401, "auth-failed")


# ---- submitting


async def test_a_submitted_session_waits_and_its_workflow_begins(gateway: Gateway) -> None:
    made = await gateway.submitted(name="train")
    assert (made["status"], made["name"], made["user"]) == ("PENDING", "train", "ada@example.org")
    assert made["slots"] == {"cpu": 1000, "mem": 256 * 1024**2}
    assert (await gateway.get("/session/train")).json()["id"] == made["id"]
    assert gateway.lives.begun == [made["id"]]


async def test_the_same_key_and_body_make_one_session(gateway: Gateway) -> None:
    headers = {**gateway.ada, "Idempotency-Key": "once"}
    first = await gateway.http.post("/session", json=WISH, headers=headers)
    second = await gateway.http.post("/session", json=WISH, headers=headers)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert (await gateway.get("/session", all="true")).json()["total"] == 1


async def test_the_same_key_with_another_body_is_a_conflict(gateway: Gateway) -> None:
    headers = {**gateway.ada, "Idempotency-Key": "once"}
    await gateway.http.post("/session", json=WISH, headers=headers)
    answer = await gateway.http.post("/session", json={**WISH, "priority": 11}, headers=headers)
    refused(answer, 409, "idempotency-key-reused")


async def test_the_same_key_of_another_user_is_another_key(gateway: Gateway) -> None:
    made = [
        (await gateway.http.post("/session", json=WISH, headers={**who, "Idempotency-Key": "once"})).json()["id"]
        for who in (gateway.ada, gateway.bob)
    ]
    assert made[0] != made[1]


async def test_a_name_in_use_is_a_conflict_that_says_by_which_session(gateway: Gateway) -> None:
    made = await gateway.submitted(name="train")
    problem = refused(await gateway.submit(name="train"), 409, "session-already-exists")
    assert problem["data"]["existingSessionId"] == made["id"]


async def test_a_name_is_free_again_after_the_end_and_for_others(gateway: Gateway) -> None:
    made = await gateway.submitted(name="train")
    await gateway.submitted(gateway.bob, name="train")
    await gateway.end(made["id"])
    assert (await gateway.submitted(name="train"))["id"] != made["id"]


@pytest.mark.parametrize(
    "resources",
    [
        {"mem": "12q"},
        {"mem": "-1"},
        {"mem": -1},
        {"mem": ""},
        {"mem": "1k"},
        {"mem": "9999999e"},
        {"cpu": "lots"},
        {"cpu": "-1"},
        {"cpu": "nan"},
        {"cpu": "inf"},
        {"cpu": 0},
    ],
    ids=str,
)
async def test_a_malformed_size_is_refused(gateway: Gateway, resources: dict[str, Any]) -> None:
    refused(await gateway.submit(resources=resources), 400, "malformed-size")


@pytest.mark.parametrize("number", ["1e400", "NaN", "Infinity", "-Infinity"])
async def test_a_number_without_a_size_is_refused(gateway: Gateway, number: str) -> None:
    body = f'{{"image": "img", "resources": {{"mem": {number}}}}}'
    headers = {**gateway.ada, "Content-Type": "application/json"}
    answer = await gateway.http.post("/session", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_an_unknown_resource_is_named(gateway: Gateway) -> None:
    assert "tpu" in refused(await gateway.submit(resources={"tpu": 1}), 400, "unknown-slot")["title"]


async def test_an_unknown_field_is_named(gateway: Gateway) -> None:
    problem = refused(await gateway.submit(colour="blue"), 400, "invalid-api-params")
    assert problem["title"] == "colour: there is no such field"
    assert "colour" in problem["data"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{not json", "the body is not JSON: "),
        (b"[]", "the body is not a JSON object"),
        (b"", "the request needs a JSON body"),
        (b'{"image": "bad image!"}', "image: 'bad image!' is not an image; allowed are letters"),
        (b'{"image": "img", "type": "batch"}', "a batch session needs a command"),
    ],
)
async def test_a_bad_body_is_refused_in_plain_words(body: bytes, words: str, gateway: Gateway) -> None:
    headers = {**gateway.ada, "Content-Type": "application/json"}
    answer = await gateway.http.post("/session", content=body, headers=headers)
    assert refused(answer, 400, "invalid-api-params")["title"].startswith(words)


async def test_a_batch_session_without_a_command_is_refused(gateway: Gateway) -> None:
    problem = refused(await gateway.submit(command=[]), 400, "invalid-api-params")
    assert "needs a command" in problem["title"]


@pytest.mark.parametrize(
    "wish",
    [
        {"name": "-x-x"},
        {"name": "abc"},
        {"image": ""},
        {"image": "a b"},
        {"env": {"1X": "y"}},
        {"env": {"X": "\0"}},
        {"command": ["a\0"]},
        {"command": ["\ud800"]},
        {"priority": 101},
        {"lifetime_s": -1},
        {"resource_group": "nowhere"},
    ],
    ids=ascii,
)
async def test_what_is_not_allowed_is_refused_as_a_bad_request(gateway: Gateway, wish: dict[str, Any]) -> None:
    body = json.dumps({**WISH, **wish})
    headers = {**gateway.ada, "Content-Type": "application/json"}
    answer = await gateway.http.post("/session", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"]


async def test_what_no_node_can_hold_is_refused_with_the_numbers(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1", cpu=4000, mem=8 * GIB))
    answer = await gateway.submit(resources={"cpu": "64", "mem": "1g"})
    problem = refused(answer, 422, "unsatisfiable")
    assert problem["data"] == {"asked": {"cpu": 64000, "mem": GIB}, "largest": {"cpu": 4000, "mem": 8 * GIB}}
    assert "64" in problem["title"]
    assert "8 GiB" in problem["title"]


async def test_without_any_node_a_session_waits(gateway: Gateway) -> None:
    assert (await gateway.submitted(resources={"cpu": "64"}))["status"] == "PENDING"


async def test_too_large_a_body_is_refused(gateway: Gateway) -> None:
    refused(await gateway.submit(command=["x" * 2 * 1024**2]), 413, "body-too-large")


async def test_too_large_a_body_is_refused_if_its_size_was_not_said(gateway: Gateway) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(32):
            yield b"x" * 65536

    answer = await gateway.http.post("/session", content=body(), headers=gateway.ada)
    refused(answer, 413, "body-too-large")


async def test_the_environment_is_in_no_answer(gateway: Gateway) -> None:
    made = await gateway.submit(env={"TOKEN": "hidden-treasure"}, name="train")
    assert made.status_code == 201
    ref = made.json()["id"]
    answers = [
        made,
        await gateway.get("/session"),
        await gateway.get(f"/session/{ref}"),
        await gateway.get(f"/session/{ref}/events"),
        await gateway.submit(env={"TOKEN": "hidden-treasure"}, name="train"),
        await gateway.submit(env={"TOKEN": "hidden-treasure", "1": "x"}),
        await gateway.http.delete(f"/session/{ref}", headers=gateway.ada),
    ]
    for answer in answers:
        assert "hidden-treasure" not in answer.text
        assert "TOKEN" not in answer.text


# ---- looking and stopping


async def test_somebody_elses_session_is_not_found(gateway: Gateway) -> None:
    ref = (await gateway.submitted(name="train"))["id"]
    for path in (f"/session/{ref}", "/session/train", f"/session/{ref[:8]}", f"/session/{ref}/events"):
        refused(await gateway.get(path, gateway.bob), 404, "object-not-found")
    refused(await gateway.get(f"/session/{ref}/logs", gateway.bob), 404, "object-not-found")
    refused(await gateway.http.delete(f"/session/{ref}", headers=gateway.bob), 404, "object-not-found")
    answer = await gateway.http.post(f"/session/{ref}/exec", json={"command": ["id"]}, headers=gateway.bob)
    refused(answer, 404, "object-not-found")
    assert (await gateway.get("/session", gateway.bob)).json()["total"] == 0
    assert gateway.lives.cancelled == []


async def test_an_id_prefix_is_enough(gateway: Gateway) -> None:
    made = await gateway.submitted()
    assert (await gateway.get(f"/session/{made['id'][:8]}")).json()["id"] == made["id"]


async def test_an_ambiguous_prefix_is_a_conflict_with_the_matches(gateway: Gateway) -> None:
    wanted = {f"deadbeef-0000-4000-8000-00000000000{n}" for n in (1, 2)}
    for session_id in wanted:
        await gateway.rename_id((await gateway.submitted())["id"], session_id)
    problem = refused(await gateway.get("/session/deadbeef"), 409, "too-many-sessions-matched")
    assert {match["id"] for match in problem["data"]["matches"]} == wanted
    assert all(session_id in problem["hint"] for session_id in wanted)


async def test_stopping_asks_the_workflow(gateway: Gateway) -> None:
    made = await gateway.submitted(name="train")
    for forced, reason in (("false", "user-requested"), ("true", "force-terminated")):
        answer = await gateway.http.delete("/session/train", params={"forced": forced}, headers=gateway.ada)
        assert answer.status_code == 202
        session_id, cancel = gateway.lives.cancelled[-1]
        assert (session_id, cancel.reason, cancel.forced) == (made["id"], reason, forced == "true")


async def test_stopping_an_ended_session_is_a_conflict(gateway: Gateway) -> None:
    made = await gateway.submitted(name="train")
    await gateway.end(made["id"])
    problem = refused(await gateway.http.delete("/session/train", headers=gateway.ada), 409, "session-ended")
    assert "CANCELLED" in problem["title"]
    assert gateway.lives.cancelled == []


async def test_the_timeline_begins_with_who_submitted(gateway: Gateway) -> None:
    made = await gateway.submitted()
    items = (await gateway.get(f"/session/{made['id']}/events")).json()["items"]
    assert [(one["to_status"], one["actor"]) for one in items] == [("PENDING", "user:ada@example.org")]


async def test_a_waiting_session_has_no_logs_and_runs_no_command(gateway: Gateway) -> None:
    await gateway.submitted(name="train")
    refused(await gateway.get("/session/train/logs"), 409, "no-logs")
    answer = await gateway.http.post("/session/train/exec", json={"command": ["id"]}, headers=gateway.ada)
    refused(answer, 409, "session-not-running")


async def test_only_superadmins_see_where_nodes_answer(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    assert (await gateway.get("/agent")).json()["items"][0]["address"] is None
    assert (await gateway.get("/agent", gateway.root)).json()["items"][0]["address"] == "http://127.0.0.1:1"


async def test_every_refusal_is_a_problem_with_a_code(gateway: Gateway) -> None:
    refused(await gateway.get("/nowhere"), 404, "route-not-found")
    refused(await gateway.http.put("/session", headers=gateway.ada), 405, "method-not-allowed")
    refused(await gateway.get("/session/none-such"), 404, "object-not-found")
    refused(await gateway.get("/session", status="ODD"), 400, "invalid-api-params")
    refused(await gateway.get("/session", limit="0"), 400, "invalid-api-params")
    headers = {**gateway.ada, "Content-Type": "application/json"}
    refused(await gateway.http.post("/session", content="{", headers=headers), 400, "invalid-api-params")
    for path in ("/session/%00", "/session/a%00b"):
        answer = await gateway.get(path)
        assert answer.status_code in (400, 404), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_documentation_page_loads_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    assert [one for one in sources if "//" in one] == []
    for source in sources:
        assert (await gateway.http.get(source)).status_code == 200, source
