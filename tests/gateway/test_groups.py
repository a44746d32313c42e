"""Resource groups and nodes over HTTP: who may write what, and what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from moorage import plugins
from moorage.db import groups, ledger, nodes
from moorage.db.engine import listening
from moorage.db.ledger import SCHEDULER_CHANNEL
from moorage.domain.node import ContainerSeen, Device
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.order import ORDERS
from moorage.scheduler.snapshot import Head, PreemptionMode
from tests.db.test_invariants import a_placed_session
from tests.support.builders import an_agent
from tests.support.gateway import Gateway, access_key_of, refused
from tests.support.two_domains import settle


async def a_group(gateway: Gateway, name: str = "gpu", **wish: Any) -> dict[str, Any]:
    answer = await gateway.ask("POST", "/resource-group", {"name": name, **wish})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def names_for(gateway: Gateway, who: dict[str, str]) -> list[str]:
    return [one["name"] for one in (await gateway.get("/resource-group", who)).json()["items"]]


async def written(gateway: Gateway, **wish: Any) -> httpx.Response:
    return await gateway.ask("PATCH", "/resource-group/default", wish)


# ---- making and changing


async def test_a_new_group_has_a_scheduler_and_takes_sessions(gateway: Gateway) -> None:
    made = await a_group(gateway, policy="drf", selector="dispersed", options={"head": "strict"})
    assert (made["policy"], made["selector"], made["options"]["head"]) == ("drf", "dispersed", "strict")
    assert gateway.lives.scheduled == [("gpu", "drf")]
    assert (await gateway.submitted(resource_group="gpu"))["resource_group"] == "gpu"


async def test_a_change_wakes_the_scheduler_at_once(gateway: Gateway, database_url: str) -> None:
    async with listening(database_url, SCHEDULER_CHANNEL) as woken, asyncio.timeout(10):
        assert (await written(gateway, policy="fair-share")).status_code == 200
        assert await woken.get() == "default"


async def test_a_change_leaves_the_rest_and_null_is_the_default_again(gateway: Gateway) -> None:
    await written(gateway, selector="roundrobin", options={"skip_limit": 5, "ageing_per_hour": 2})
    answer = await written(gateway, description="all", options={"skip_limit": None})
    found = answer.json()
    assert (found["selector"], found["description"]) == ("roundrobin", "all")
    assert (found["options"]["skip_limit"], found["options"]["ageing_per_hour"]) == (20, 2)


async def test_the_scheduler_reads_the_policy_as_it_was_written(gateway: Gateway) -> None:
    await written(
        gateway,
        policy="fifo",
        options={"head": "none", "preemption": "requeue", "session_types": ["batch"], "half_life_s": 60},
    )
    policy = groups.policy_of(await groups.get(gateway.engine, "default"))
    assert (policy.order, policy.head, policy.preemption) == ("fifo", Head.NONE, PreemptionMode.REQUEUE)
    assert (policy.session_types, policy.half_life_s, policy.skip_limit) == (frozenset({"batch"}), 60, 20)


@pytest.mark.parametrize(
    ("wish", "code", "said"),
    [
        ({"policy": "fifo2"}, "unknown-policy", "fair-share"),
        ({"policy": ""}, "unknown-policy", "fair-share"),
        ({"selector": "best"}, "unknown-selector", "roundrobin"),
        ({"options": {"heads": "easy"}}, "unknown-option", "half_life_s"),
        ({"options": {"head": "soft"}}, "invalid-option", "'easy', 'strict' or 'none'"),
        ({"options": {"ageing_per_hour": -1}}, "invalid-option", "greater than or equal to 0"),
        ({"options": {"skip_limit": 0}}, "invalid-option", "greater than or equal to 1"),
        ({"options": {"skip_limit": 1.5}}, "invalid-option", "integer"),
        ({"options": {"half_life_s": 0}}, "invalid-option", "greater than 0"),
        ({"options": {"half_life_s": "inf"}}, "invalid-option", "less than"),
        ({"options": {"preemption": "kill"}}, "invalid-option", "'off', 'terminate' or 'requeue'"),
        ({"options": {"preemption_min_run_s": -1}}, "invalid-option", "greater than or equal to 0"),
        ({"options": {"preemption_hold_s": "nan"}}, "invalid-option", "preemption_hold_s"),
        ({"options": {"session_types": ["mining"]}}, "invalid-option", "'interactive' or 'batch'"),
        (
            {"options": {"default_pending_timeout_s": 9, "max_pending_timeout_s": 5}},
            "invalid-option",
            "max_pending_timeout_s, 5 s",
        ),
        ({"allowed_domains": ["nowhere"]}, "unknown-domain", "nowhere"),
        ({"allowed_projects": ["default"]}, "unknown-project", "domain/project"),
        ({"allowed_keypairs": ["AKIANOBODY"]}, "unknown-keypair", "AKIANOBODY"),
        ({"colour": "blue"}, "invalid-api-params", "colour"),
    ],
    ids=str,
)
async def test_what_is_not_allowed_is_refused_when_written_with_what_is(
    gateway: Gateway, wish: dict[str, Any], code: str, said: str
) -> None:
    before = await groups.get(gateway.engine, "default")
    assert said in refused(await written(gateway, **wish), 400, code)["title"]
    refused(await gateway.ask("POST", "/resource-group", {"name": "gpu", **wish}), 400, code)
    assert await groups.get(gateway.engine, "default") == before


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "x" * 65, "é"])
async def test_a_group_needs_a_plain_name(gateway: Gateway, name: str) -> None:
    refused(await gateway.ask("POST", "/resource-group", {"name": name}), 400, "invalid-name")


async def test_a_group_is_made_once(gateway: Gateway) -> None:
    refused(await gateway.ask("POST", "/resource-group", {"name": "default"}), 409, "resource-group-exists")


async def test_only_superadmins_write(gateway: Gateway) -> None:
    for method, path, body in (
        ("POST", "/resource-group", {"name": "gpu"}),
        ("PATCH", "/resource-group/default", {"policy": "fifo"}),
        ("DELETE", "/resource-group/default", None),
        ("PUT", "/limit/user/ada@example.org", {}),
        ("DELETE", "/limit/user/ada@example.org", None),
        ("PATCH", "/agent/n1", {"schedulable": False}),
        ("POST", "/agent/n1/drain", None),
    ):
        problem = refused(await gateway.ask(method, path, body, who=gateway.ada), 403, "forbidden")
        assert "needs" in problem["title"]


async def test_a_plug_in_of_another_distribution_is_a_policy(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    info = tmp_path / "tides-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tides\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[backendai_scheduler_v10]\ntides = tides_of_moorage:Tides\nbroken = tides_of_moorage:missing\n"
        "fifo = tides_of_moorage:Tides\n"
    )
    (tmp_path / "tides_of_moorage.py").write_text(
        "class Tides:\n    def key(self, session, policy):\n        return (session.submitted,)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins.orders.cache_clear()
    request.addfinalizer(plugins.orders.cache_clear)
    assert plugins.order_names() == [*ORDERS, "tides"]
    assert plugins.orders()["fifo"] is ORDERS["fifo"]
    assert (await written(gateway, policy="tides")).status_code == 200
    refused(await written(gateway, policy="broken"), 400, "unknown-policy")


# ---- who may use one


async def test_who_is_named_by_any_list_may_use_the_group_and_nobody_else_learns_of_it(gateway: Gateway) -> None:
    await a_group(gateway, "keys", allowed_keypairs=[access_key_of(gateway.ada)])
    await a_group(gateway, "everybody", allowed_projects=["default/default"])
    assert await names_for(gateway, gateway.ada) == ["default", "everybody", "keys"]
    assert await names_for(gateway, gateway.bob) == ["default", "everybody"]
    assert await names_for(gateway, gateway.root) == ["default", "everybody", "keys"]
    await gateway.submitted(gateway.ada, resource_group="keys")
    hidden = refused(await gateway.submit(gateway.bob, resource_group="keys"), 400, "unknown-resource-group")
    absent = refused(await gateway.submit(gateway.bob, resource_group="kelp"), 400, "unknown-resource-group")
    assert hidden["title"].replace("keys", "kelp") == absent["title"]
    refused(await gateway.get("/resource-group/keys", gateway.bob), 404, "unknown-resource-group")


async def test_who_else_may_use_a_group_is_shown_to_superadmins_alone(gateway: Gateway) -> None:
    await a_group(gateway, "keys", allowed_keypairs=[access_key_of(gateway.ada), access_key_of(gateway.bob)])
    assert access_key_of(gateway.bob) not in (await gateway.get("/resource-group", gateway.ada)).text
    assert access_key_of(gateway.bob) not in (await gateway.get("/resource-group/keys", gateway.ada)).text
    assert access_key_of(gateway.bob) in (await gateway.get("/resource-group/keys", gateway.root)).text


async def test_a_token_from_login_counts_as_the_oldest_key(gateway: Gateway) -> None:
    await a_group(gateway, "keys", allowed_keypairs=[access_key_of(gateway.ada)])
    answer = await gateway.http.post("/auth/login", json={"email": "ada@example.org", "password": "correct horse"})
    bearer = {"Authorization": f"Bearer {answer.json()['token']}"}
    made = await gateway.submitted(bearer, resource_group="keys")
    assert made["access_key"] == access_key_of(gateway.ada)


async def test_a_session_of_a_type_that_the_group_does_not_take_is_refused(gateway: Gateway) -> None:
    await written(gateway, options={"session_types": ["interactive"]})
    problem = refused(await gateway.submit(), 400, "session-type-not-allowed")
    assert problem["data"]["allowed"] == ["interactive"]


async def test_the_group_sets_the_pending_timeout(gateway: Gateway) -> None:
    await written(gateway, options={"default_pending_timeout_s": 60, "max_pending_timeout_s": 600})
    assert (await gateway.submitted())["pending_timeout_s"] == 60
    assert (await gateway.submitted(pending_timeout_s=600))["pending_timeout_s"] == 600
    for wish in (601, 0):
        problem = refused(await gateway.submit(pending_timeout_s=wish), 400, "invalid-api-params")
        assert "at most 600" in problem["title"]


# ---- removing


async def test_a_group_in_use_is_not_removed(gateway: Gateway) -> None:
    await a_group(gateway)
    made = await gateway.submitted(resource_group="gpu")
    await nodes.register(gateway.engine, an_agent("n1", resource_group="gpu"))
    problem = refused(await gateway.ask("DELETE", "/resource-group/gpu"), 409, "resource-group-in-use")
    assert problem["data"] == {"agents": 1, "sessions": 1}
    assert "1 agents and 1 live sessions" in problem["title"]
    await gateway.end(made["id"])
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET status = 'LOST'"))
    assert (await gateway.ask("DELETE", "/resource-group/gpu")).status_code == 204


async def test_a_removed_group_is_gone_until_it_is_made_again(gateway: Gateway) -> None:
    await a_group(gateway, options={"head": "none"})
    assert (await gateway.ask("DELETE", "/resource-group/gpu")).status_code == 204
    assert await names_for(gateway, gateway.root) == ["default"]
    refused(await gateway.submit(resource_group="gpu"), 400, "unknown-resource-group")
    for method, body in (("GET", None), ("DELETE", None), ("PATCH", {"policy": "fifo"})):
        refused(await gateway.ask(method, "/resource-group/gpu", body), 404, "unknown-resource-group")
    assert (await a_group(gateway))["options"]["head"] == "easy"


async def test_no_session_slips_into_a_group_while_it_is_removed(gateway: Gateway) -> None:
    await a_group(gateway)
    asked = [gateway.submit(resource_group="gpu") for _ in range(10)]
    answers = await asyncio.gather(*asked[:5], gateway.ask("DELETE", "/resource-group/gpu"), *asked[5:])
    removal = answers.pop(5)
    admitted = sum(answer.status_code == 201 for answer in answers)
    assert {answer.status_code for answer in answers} <= {201, 400}
    assert (removal.status_code == 204) == (admitted == 0)


# ---- nodes


async def test_a_cordoned_node_is_shown_as_such_and_wakes_the_scheduler(gateway: Gateway, database_url: str) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    async with listening(database_url, SCHEDULER_CHANNEL) as woken, asyncio.timeout(10):
        assert (await gateway.ask("PATCH", "/agent/n1", {"schedulable": False})).json()["schedulable"] is False
        assert await woken.get() == "default"
    assert (await gateway.get("/agent")).json()["items"][0]["schedulable"] is False
    assert (await gateway.ask("PATCH", "/agent/n1", {"schedulable": True})).json()["schedulable"] is True


async def test_draining_cordons_and_tells_the_nodes_workflow(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    answer = await gateway.ask("POST", "/agent/n1/drain")
    assert (answer.status_code, answer.json()["schedulable"]) == (202, False)
    assert gateway.lives.drained == ["n1"]


async def test_draining_a_node_without_a_workflow_cordons_it_and_says_so(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    gateway.lives.without_workflow.add("n1")
    refused(await gateway.ask("POST", "/agent/n1/drain"), 409, "agent-without-workflow")
    assert (await gateway.get("/agent")).json()["items"][0]["schedulable"] is False


async def test_only_a_lost_node_on_which_nothing_holds_room_is_removed_and_it_may_come_back(gateway: Gateway) -> None:
    session_id, kernel_id = await a_placed_session(gateway.engine, "eve@example.org")
    cpu = (await gateway.get("/agent")).json()["items"][0]["slots"]["cpu"]
    assert cpu["used"] > 0
    refused(await gateway.ask("DELETE", "/agent/n1"), 409, "agent-alive")
    await nodes.mark_lost(gateway.engine, "n1")
    held = await gateway.ask("DELETE", "/agent/n1")
    refused(held, 409, "agent-in-use")
    assert held.json()["title"].startswith("1 sessions still hold room on agent n1: ")
    assert gateway.lives.retired == []

    lost = Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE")
    await ledger.finish(gateway.engine, session_id, lost, actor="workflow", fenced=["n1"])
    assert (await gateway.ask("DELETE", "/agent/n1")).status_code == 204
    assert gateway.lives.retired == ["n1"]
    assert (await gateway.get("/agent")).json()["items"] == []
    refused(await gateway.ask("PATCH", "/agent/n1", {"schedulable": True}), 404, "unknown-agent")
    refused(await gateway.ask("DELETE", "/agent/n1"), 404, "unknown-agent")

    await nodes.register(gateway.engine, an_agent("n1"))
    [back] = (await gateway.get("/agent")).json()["items"]
    assert (back["status"], back["slots"]["cpu"]["used"]) == ("ALIVE", 0), "what was fenced on it was released"
    killed = await nodes.compare(gateway.engine, "n1", [ContainerSeen(session_id, kernel_id, 0, "c1", "running")])
    assert len(killed.unexpected) == 1


async def test_an_unknown_node_is_neither_cordoned_nor_drained(gateway: Gateway) -> None:
    refused(await gateway.ask("PATCH", "/agent/n9", {"schedulable": False}), 404, "unknown-agent")
    refused(await gateway.ask("POST", "/agent/n9/drain"), 404, "unknown-agent")
    assert gateway.lives.drained == []


async def test_a_node_shows_its_devices(gateway: Gateway) -> None:
    gpu = Device("gpu0", "cuda.shares", 100, numa=1, model="H100", healthy=False, memory=80, reason="XID 79")
    await nodes.register(gateway.engine, an_agent("n1", devices=[gpu]))
    device = (await gateway.get("/agent")).json()["items"][0]["devices"][0]
    assert device.pop("health_changed")
    assert device == {
        "id": "gpu0", "slot": "cuda.shares", "total": 100, "used": 0, "numa": 1, "model": "H100", "memory": 80,
        "healthy": False, "reason": "XID 79",
    }  # fmt: skip


async def test_who_may_see_everything_may_not_use_everything(gateway: Gateway) -> None:
    tenants = await settle(gateway.engine)
    await gateway.ask("POST", "/resource-group", {"name": "beta-only", "allowed_domains": ["beta"]})
    mona = tenants["mona"].headers
    assert (await gateway.get("/resource-group/beta-only", mona)).status_code == 200
    refused(await gateway.submit(mona, resource_group="beta-only"), 400, "unknown-resource-group")
    refused(await gateway.submit(mona, agents=["n1"]), 403, "forbidden")


async def test_a_group_of_any_of_ones_projects_is_seen_and_used_from_that_project(gateway: Gateway) -> None:
    tenants = await settle(gateway.engine)
    ada = tenants["ada"]
    await gateway.ask("POST", f"/project/{tenants['cleo'].project_id}/member", {"user": ada.email})
    await gateway.ask("POST", "/resource-group", {"name": "of-two", "allowed_projects": ["alpha/two"]})
    names = {one["name"] for one in (await gateway.get("/resource-group", ada.headers)).json()["items"]}
    assert names == {"default", "of-two"}
    refused(await gateway.submit(ada.headers, resource_group="of-two"), 400, "unknown-resource-group")
    assert (await gateway.submit(ada.headers, resource_group="of-two", project="two")).status_code == 201
