"""Projects and their members over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from moorage.db import members
from moorage.domain.errors import NotFound
from tests.support.gateway import Gateway, refused
from tests.support.tenants import Tenants


async def names(gateway: Gateway, path: str, who: dict[str, str], key: str = "name") -> list[Any]:
    answer = await gateway.ask("GET", path, who=who)
    assert answer.status_code == 200, answer.text
    return [one[key] for one in answer.json()["items"]]


async def test_a_project_is_found_by_id_and_name_with_its_domain(gateway: Gateway, tenants: Tenants) -> None:
    project = (await gateway.ask("GET", "/project/lab:ml")).json()
    assert (project["domain"], project["name"], project["members"]) == ("lab", "ml", 4)
    assert (await gateway.ask("GET", f"/project/{project['id']}")).json() == project
    assert (await gateway.get("/project/ml", tenants["mia"])).json() == project
    refused(await gateway.ask("GET", "/project/ml"), 404, "unknown-project")


async def test_lists_hold_what_one_may_see(gateway: Gateway, tenants: Tenants) -> None:
    assert await names(gateway, "/project", tenants["boss"]) == ["ml", "nlp"]
    assert await names(gateway, "/project", tenants["mia"]) == ["ml"]
    assert await names(gateway, "/project", tenants["max"]) == ["ml", "nlp"]
    assert await names(gateway, "/project?domain=uni", gateway.root) == ["art"]
    assert await names(gateway, "/project?domain=uni", tenants["boss"]) == []
    page = (await gateway.get("/project", gateway.root, limit="1", offset="2")).json()
    assert (page["total"], [one["name"] for one in page["items"]]) == (4, ["nlp"])


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_project_of_another_domain_does_not_exist(gateway: Gateway, tenants: Tenants, method: str) -> None:
    body = {"description": "x"} if method == "PATCH" else None
    refused(await gateway.ask(method, "/project/uni:art", body, tenants["boss"]), 404, "unknown-project")
    refused(await gateway.ask(method, "/project/uni:none", body, tenants["boss"]), 404, "unknown-project")
    wish = {"domain": "uni", "name": "mine"}
    refused(await gateway.ask("POST", "/project", wish, tenants["boss"]), 404, "unknown-domain")


async def test_a_member_reads_and_changes_nothing(gateway: Gateway, tenants: Tenants) -> None:
    mia = tenants["mia"]
    for method, path, body in (
        ("PATCH", "/project/ml", {"description": "x"}),
        ("DELETE", "/project/ml", None),
        ("POST", "/project/ml/member", {"user": "max@lab.org"}),
        ("POST", "/project", {"domain": "lab", "name": "mine"}),
    ):
        refused(await gateway.ask(method, path, body, mia), 403, "forbidden")
    assert await names(gateway, "/project/ml/member", mia, "email") == ["mia@lab.org"]


async def test_who_administers_a_project_sees_its_members_and_decides_who_they_are(
    gateway: Gateway, tenants: Tenants
) -> None:
    lead = tenants["lead"]
    everybody = ["boss@lab.org", "lead@lab.org", "max@lab.org", "mia@lab.org"]
    assert await names(gateway, "/project/ml/member", lead, "email") == everybody
    assert (await gateway.ask("DELETE", "/project/ml/member/max@lab.org", who=lead)).status_code == 204
    assert (await gateway.ask("POST", "/project/ml/member", {"user": "max@lab.org"}, lead)).status_code == 201
    assert (await gateway.ask("PATCH", "/project/ml", {"description": "ours"}, lead)).status_code == 200
    for wish in ({"is_active": False}, {"policy": "default"}):
        refused(await gateway.ask("PATCH", "/project/ml", wish, lead), 403, "forbidden")
    refused(await gateway.ask("POST", "/project/nlp/member", {"user": "mia@lab.org"}, lead), 404, "unknown-project")
    refused(await gateway.ask("POST", "/project/ml/member", {"user": "uma@uni.org"}, lead), 404, "unknown-user")
    refused(await gateway.ask("PATCH", "/user/mia@lab.org", {"name": "x"}, lead), 403, "forbidden")


async def test_the_main_project_moves_on_and_the_last_one_stays(gateway: Gateway, tenants: Tenants) -> None:
    boss = tenants["boss"]
    assert (await gateway.ask("DELETE", "/project/ml/member/max@lab.org", who=boss)).status_code == 204
    user = (await gateway.ask("GET", "/user/max@lab.org", who=boss)).json()
    assert (user["project"], user["projects"]) == ("nlp", ["nlp"])
    refused(await gateway.ask("DELETE", "/project/nlp/member/max@lab.org", who=boss), 409, "last-project")
    refused(await gateway.ask("DELETE", "/project/ml/member/max@lab.org", who=boss), 404, "unknown-user")


async def test_of_two_removals_at_once_one_project_is_left(gateway: Gateway, tenants: Tenants) -> None:
    answers = await asyncio.gather(
        *(gateway.ask("DELETE", f"/project/{name}/member/max@lab.org", who=tenants["boss"]) for name in ("ml", "nlp"))
    )
    assert sorted(one.status_code for one in answers) == [204, 409]
    user = (await gateway.ask("GET", "/user/max@lab.org")).json()
    assert user["projects"] == [user["project"]]


async def test_of_two_who_make_the_same_project_at_once_one_wins(gateway: Gateway, tenants: Tenants) -> None:
    wishes = [{"domain": "lab", "name": "new", "description": str(number)} for number in range(3)]
    answers = await asyncio.gather(*(gateway.ask("POST", "/project", wish) for wish in wishes))
    assert sorted(one.status_code for one in answers) == [201, 409, 409]
    refused(next(one for one in answers if one.status_code == 409), 409, "project-exists")


async def test_sessions_go_where_they_are_told_and_else_to_the_main_project(gateway: Gateway, tenants: Tenants) -> None:
    there = [
        await gateway.submitted(tenants["max"], **wish) for wish in ({}, {"project": "nlp"}, {"project": "lab/nlp"})
    ]
    assert [one["project"] for one in there] == ["ml", "nlp", "nlp"]
    for other in ("uni/art", "art", "default", "nlp~1"):
        refused(await gateway.submit(tenants["mia"], project=other), 404, "unknown-project")
    refused(await gateway.submit(tenants["mia"], project="nlp"), 404, "unknown-project")


async def test_an_inactive_project_takes_no_new_sessions_and_keeps_its_own(gateway: Gateway, tenants: Tenants) -> None:
    running = await gateway.submitted(tenants["max"])
    assert (await gateway.ask("PATCH", "/project/lab:ml", {"is_active": False})).status_code == 200
    # Even for whom the gate still remembers as a member.
    refused(await gateway.submit(tenants["max"]), 404, "unknown-project")
    assert (await gateway.submit(tenants["max"], project="nlp")).status_code == 201
    assert (await gateway.get(f"/session/{running['id']}", tenants["max"])).json()["status"] == "PENDING"


async def test_whoever_left_a_project_starts_nothing_there(gateway: Gateway, tenants: Tenants) -> None:
    who = await tenants.principal("max@lab.org")
    await members.remove(gateway.engine, await tenants.root(), "lab/ml", "max@lab.org")
    with pytest.raises(NotFound, match="no active project"):
        async with gateway.engine.begin() as connection:
            await members.hold(connection, who)


async def test_a_project_with_live_sessions_is_deleted_by_force_only(gateway: Gateway, tenants: Tenants) -> None:
    session = await gateway.submitted(tenants["max"], project="nlp")
    owns = (await gateway.ask("DELETE", "/project/lab:nlp?dry_run=true")).json()["owns"]
    assert owns["live_sessions"] == {"count": 1, "first": [session["name"]]}
    assert owns["members"] == {"count": 1, "first": ["max@lab.org"]}
    problem = refused(await gateway.ask("DELETE", "/project/lab:nlp"), 409, "still-owned")
    assert problem["data"]["owns"] == owns
    assert gateway.lives.cancelled == []
    assert (await gateway.ask("DELETE", "/project/lab:nlp?force=true")).status_code == 200
    [(asked, cancel)] = gateway.lives.cancelled
    assert (asked, cancel.reason, cancel.actor) == (session["id"], "cancelled-by-admin", "user:root@example.org")
    refused(await gateway.ask("GET", "/project/lab:nlp"), 404, "unknown-project")
    assert (await gateway.ask("GET", "/user/max@lab.org")).json()["projects"] == ["ml"]


async def test_members_without_another_project_keep_a_project_from_deletion(gateway: Gateway, tenants: Tenants) -> None:
    problem = refused(await gateway.ask("DELETE", "/project/uni:art"), 409, "still-owned")
    assert problem["data"]["owns"]["members_without_another"]["count"] == 2
    assert (await gateway.ask("DELETE", "/project/uni:art?force=true")).status_code == 200
    refused(await gateway.submit(tenants["uma"]), 404, "unknown-project")
    assert (await gateway.ask("POST", "/project", {"domain": "uni", "name": "art"})).status_code == 201
    assert (await gateway.ask("POST", "/project/uni:art/member", {"user": "uma@uni.org"})).status_code == 201
    user = (await gateway.ask("GET", "/user/uma@uni.org")).json()
    assert (user["project"], user["projects"]) == ("art", ["art"])


async def test_a_project_without_a_past_leaves_no_row_and_one_with_it_is_purged(
    gateway: Gateway, tenants: Tenants
) -> None:
    await gateway.ask("POST", "/project", {"domain": "lab", "name": "short"})
    assert (await gateway.ask("DELETE", "/project/lab:short")).status_code == 200
    assert await names(gateway, "/project?deleted=true", gateway.root) == []
    session = await gateway.submitted(tenants["max"], project="nlp", env={"TOKEN": "planted"})
    await gateway.end(session["id"])
    refused(await gateway.ask("POST", "/project/lab:nlp/purge"), 409, "not-deleted")
    assert (await gateway.ask("DELETE", "/project/lab:nlp")).status_code == 200
    [kept] = (await gateway.get("/project", gateway.root, deleted="true")).json()["items"]
    removed = (await gateway.ask("POST", f"/project/{kept['id']}/purge")).json()["removed"]
    assert removed == {"secrets": 0, "row": False}
