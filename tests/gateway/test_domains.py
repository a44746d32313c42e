"""Domains over HTTP."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from tests.support.gateway import Gateway, refused
from tests.support.tenants import Tenants


async def test_a_domain_is_made_shown_changed_and_deleted(gateway: Gateway) -> None:
    made = await gateway.ask("POST", "/domain", {"name": "lab", "description": "x", "allowed_registries": ["r.org"]})
    assert made.status_code == 201, made.text
    assert (made.json()["is_active"], made.json()["users"], made.json()["projects"]) == (True, 0, 0)
    changed = await gateway.ask("PATCH", "/domain/lab", {"description": "y"})
    assert (changed.json()["description"], changed.json()["allowed_registries"]) == ("y", ["r.org"])
    listed = (await gateway.get("/domain", gateway.root)).json()
    assert ([one["name"] for one in listed["items"]], listed["total"]) == (["default", "lab"], 2)
    assert (await gateway.ask("DELETE", "/domain/lab")).status_code == 200
    refused(await gateway.ask("GET", "/domain/lab"), 404, "unknown-domain")


async def test_of_two_who_make_the_same_domain_at_once_one_wins(gateway: Gateway) -> None:
    answers = await asyncio.gather(
        *(gateway.ask("POST", "/domain", {"name": "lab", "description": str(number)}) for number in range(4))
    )
    assert sorted(one.status_code for one in answers) == [201, 409, 409, 409]
    winner = next(one.json() for one in answers if one.status_code == 201)
    assert (await gateway.ask("GET", "/domain/lab")).json() == winner


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", "a/b", "a:b", "a b", "dömäin", "a\u200b", "x" * 65, "a~b", "A\n"]
)
async def test_what_is_no_name_is_refused(gateway: Gateway, name: str) -> None:
    refused(await gateway.ask("POST", "/domain", {"name": name}), 400, "invalid-name")
    assert (await gateway.get("/domain", gateway.root)).json()["total"] == 1


@pytest.mark.parametrize(
    "body",
    [{"name": "a\0"}, {"name": "lab", "is_active": False}, {"name": "lab", "created_at": "2000-01-01T00:00:00Z"}, {}],
    ids=str,
)
async def test_unknown_and_malformed_fields_are_refused(gateway: Gateway, body: dict[str, object]) -> None:
    refused(await gateway.ask("POST", "/domain", body), 400, "invalid-api-params")


async def test_an_administrator_of_a_domain_sees_and_describes_his_own_only(gateway: Gateway, tenants: Tenants) -> None:
    boss = tenants["boss"]
    assert [one["name"] for one in (await gateway.get("/domain", boss)).json()["items"]] == ["lab"]
    assert (await gateway.ask("PATCH", "/domain/lab", {"description": "ours"}, boss)).status_code == 200
    refused(await gateway.ask("PATCH", "/domain/uni", {"description": "theirs"}, boss), 404, "unknown-domain")
    refused(await gateway.ask("GET", "/domain/uni", who=boss), 404, "unknown-domain")
    for wish in ({"is_active": False}, {"allowed_registries": ["everything.org"]}):
        refused(await gateway.ask("PATCH", "/domain/lab", wish, boss), 403, "forbidden")
    refused(await gateway.ask("DELETE", "/domain/lab", who=boss), 403, "forbidden")
    refused(await gateway.ask("POST", "/domain", {"name": "mine"}, boss), 403, "forbidden")


async def test_others_are_not_even_told_which_domains_exist(gateway: Gateway, tenants: Tenants) -> None:
    for name in ("mia", "lead"):
        for path in ("/domain", "/domain/lab", "/domain/uni", "/domain/nowhere"):
            refused(await gateway.get(path, tenants[name]), 403, "forbidden")


async def test_a_domain_that_owns_something_is_not_deleted_and_says_what(gateway: Gateway, tenants: Tenants) -> None:
    owns = (await gateway.ask("DELETE", "/domain/lab?dry_run=true")).json()["owns"]
    assert owns["projects"] == {"count": 2, "first": ["ml", "nlp"]}
    assert owns["users"]["count"] == 4
    problem = refused(await gateway.ask("DELETE", "/domain/lab"), 409, "still-owned")
    assert problem["data"]["owns"] == owns
    assert "2 projects (ml, nlp)" in problem["title"]
    assert (await gateway.ask("GET", "/domain/lab")).json()["is_active"] is True


async def test_a_deleted_domain_keeps_its_past_and_gives_its_name_free(gateway: Gateway, tenants: Tenants) -> None:
    session = await gateway.submitted(tenants["uma"])
    await gateway.end(session["id"])
    for user in ("uma@uni.org", "dean@uni.org"):
        assert (await gateway.ask("DELETE", f"/user/{user}")).status_code == 200
    assert (await gateway.ask("DELETE", "/project/uni:art")).status_code == 200
    assert (await gateway.ask("DELETE", "/domain/uni")).status_code == 200
    assert (await gateway.ask("POST", "/domain", {"name": "uni"})).status_code == 201
    kept = (await gateway.get("/domain", gateway.root, deleted="true")).json()["items"]
    assert [one["name"].split("~")[0] for one in kept] == ["uni"]
    past = (await gateway.get(f"/session/{session['id']}", gateway.root)).json()
    assert past["domain"] == kept[0]["name"]
    removed = (await gateway.ask("POST", f"/domain/{kept[0]['name']}/purge")).json()["removed"]
    assert removed == {"users": 2, "projects": 1}
    refused(await gateway.ask("POST", "/domain/lab/purge"), 409, "not-deleted")
    again = await gateway.ask("POST", "/user", {"email": "uma@uni.org", "domain": "lab", "projects": ["ml"]})
    assert again.status_code == 201, again.text


async def test_an_ended_session_changes_in_nothing_but_its_domain(gateway: Gateway) -> None:
    session = await gateway.submitted()
    await gateway.end(session["id"])
    with pytest.raises(Exception, match="never changes again"):
        async with gateway.engine.begin() as connection:
            await connection.execute(text("UPDATE sessions SET domain = 'x', status_info = 'other'"))
