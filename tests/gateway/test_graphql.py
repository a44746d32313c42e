"""GraphQL over HTTP: the same permissions and refusals as REST, and what one query may cost."""

from __future__ import annotations

from typing import Any

import pytest

from api.graphql.limits import MAX_DEPTH
from tests.support.gateway import Gateway, refused


async def asked(gateway: Gateway, query: str, who: dict[str, str] | None = None, **variables: Any) -> dict[str, Any]:
    body = {"query": query, "variables": variables}
    answer = await gateway.http.post("/graphql", json=body, headers=who or gateway.ada)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def refusal(answer: dict[str, Any]) -> dict[str, Any]:
    assert len(answer["errors"]) == 1, answer
    found: dict[str, Any] = answer["errors"][0]
    return found


ONE = "query ($id: UUID!) { compute_session(id: $id) { status id name kernels { role idx agent } } }"


async def test_a_session_with_its_kernels_comes_in_the_order_of_the_selection(gateway: Gateway) -> None:
    made = await gateway.submitted(name="worker", cluster_size=2)
    found = (await asked(gateway, ONE, id=made["id"]))["data"]["compute_session"]
    assert list(found) == ["status", "id", "name", "kernels"]
    assert (found["status"], found["id"], found["name"]) == ("PENDING", made["id"], "worker")
    assert [(one["role"], one["idx"]) for one in found["kernels"]] == [("main", 1), ("sub", 1)]


async def test_somebody_elses_session_is_null_as_if_there_were_none(gateway: Gateway) -> None:
    made = await gateway.submitted()
    assert (await asked(gateway, ONE, gateway.bob, id=made["id"])) == {"data": {"compute_session": None}}
    assert (await asked(gateway, ONE, gateway.root, id=made["id"]))["data"]["compute_session"]["id"] == made["id"]


async def test_a_list_holds_what_one_may_see_and_how_many_there_are(gateway: Gateway) -> None:
    for number in range(3):
        await gateway.submitted(name=f"job-{number}")
    query = "{ compute_session_list(limit: 2, offset: 0) { items { name group_name requested_slots } total_count } }"
    found = (await asked(gateway, query))["data"]["compute_session_list"]
    assert [one["name"] for one in found["items"]] == ["job-2", "job-1"]
    assert found["items"][0]["group_name"] == "default"
    assert found["items"][0]["requested_slots"] == '{"cpu": 1000, "mem": 268435456}'
    assert found["total_count"] == 3
    assert (await asked(gateway, query, gateway.bob))["data"]["compute_session_list"]["total_count"] == 0


async def test_a_refusal_has_the_code_and_hint_that_rest_gives(gateway: Gateway) -> None:
    error = refusal(await asked(gateway, "{ compute_session_list(limit: 101, offset: 0) { total_count } }"))
    assert error["extensions"]["code"] == "invalid-api-params"
    assert "1 to 100" in error["message"]
    assert error["path"] == ["compute_session_list"]


async def test_without_a_credential_nothing_is_said(gateway: Gateway) -> None:
    for path in ("/graphql", "/admin/gql"):
        answer = await gateway.http.post(path, json={"query": "{ __schema { types { name } } }"})
        refused(answer, 401, "auth-failed")


async def test_several_queries_at_once_are_refused(gateway: Gateway) -> None:
    answer = await gateway.http.post("/graphql", json=[{"query": "{ __typename }"}] * 2, headers=gateway.ada)
    refused(answer, 400, "invalid-api-params")


async def test_aliases_do_not_multiply_what_one_request_may_cost(gateway: Gateway) -> None:
    field = "compute_session_list(limit: 100, offset: 0) { items { kernels { role } } }"
    few = "{" + " ".join(f"a{number}: {field}" for number in range(2)) + "}"
    many = "{" + " ".join(f"a{number}: {field}" for number in range(60)) + "}"
    assert "errors" not in await asked(gateway, few)
    assert "exceeds the maximum cost" in (await asked(gateway, many))["errors"][0]["message"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("{" + "a {" * (MAX_DEPTH + 1) + "b" + "}" * (MAX_DEPTH + 2), "nested deeper"),
        ("query { ...a } fragment a on Query { ...b } fragment b on Query { ...a }", "nested deeper"),
        ("{ __typename " * 1 + " __typename" * 5000 + "}", "tokens"),
        ("{ compute_session", "Syntax Error"),
        ("{ nothing_here }", "Cannot query field"),
        ("mutation { nothing_here }", "not"),
    ],
    ids=["depth", "endless fragments", "tokens", "syntax", "unknown field", "no such mutation"],
)
async def test_a_bad_query_is_refused_in_plain_words(gateway: Gateway, query: str, words: str) -> None:
    assert words in (await asked(gateway, query))["errors"][0]["message"]
