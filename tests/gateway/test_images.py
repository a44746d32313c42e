"""Images over REST: which may run, where they are, what is ordered, and credentials that nobody reads back."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from moorage.db import image_orders, images, ledger, nodes, placements, registries
from moorage.db.snapshots import read_snapshot
from moorage.domain.image_orders import NodeResult, NodeState
from moorage.domain.pulls import NodeImage, PullProgress
from moorage.domain.session import KernelSpec
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import KEYS, an_agent
from tests.support.gateway import Gateway, refused
from tests.support.served import served

D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
SEAL = Seal(KEYS)


async def _allow(gateway: Gateway, pattern: str, domain: str | None = None) -> None:
    answer = await gateway.ask("POST", "/image/allowed", {"pattern": pattern, "domain": domain})
    assert answer.status_code == 201, answer.text


async def test_without_a_pattern_everything_may_run_and_with_one_only_that(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    assert (await gateway.submit(image="evil.example/x:1")).status_code == 201
    await _allow(gateway, "python:*")
    await _allow(gateway, "registry.example/team/*")
    problem = refused(await gateway.submit(image="evil.example/python:3.12"), 400, "image-not-allowed")
    assert "python:*, registry.example/team/*" in problem["title"]
    assert problem["data"]["allowed"] == ["python:*", "registry.example/team/*"]
    for image in ("python:3.12", "docker.io/library/python", "registry.example/team/deep/app"):
        assert (await gateway.submit(image=image)).status_code == 201, image
    refused(await gateway.ask("POST", "/image/allowed", {"pattern": "python:*"}), 409, "pattern-exists")
    refused(await gateway.ask("POST", "/image/allowed", {"pattern": "a b"}), 400, "malformed-pattern")
    for pattern in ("python:*", "registry.example/team/*"):
        answer = await gateway.ask("DELETE", f"/image/allowed?pattern={pattern}")
        assert answer.status_code == 204
    refused(await gateway.ask("DELETE", "/image/allowed?pattern=python:*"), 404, "unknown-pattern")
    assert (await gateway.submit(image="evil.example/x:1")).status_code == 201


async def test_a_domain_may_run_what_everybody_may_and_what_it_may_itself(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    assert (await gateway.ask("POST", "/domain", {"name": "lab"})).status_code == 201
    await _allow(gateway, "lab/*", "lab")
    assert (await gateway.submit(image="anything:1")).status_code == 201  # the default domain has no pattern
    await _allow(gateway, "python:*", "default")
    await _allow(gateway, "shared/*")
    assert (await gateway.submit(image="shared/app:1")).status_code == 201
    refused(await gateway.submit(image="lab/app:1"), 400, "image-not-allowed")
    mine = (await gateway.get("/image/allowed")).json()["items"]
    assert [(one["domain"], one["pattern"]) for one in mine] == [(None, "shared/*"), ("default", "python:*")]
    everything = (await gateway.ask("GET", "/image/allowed")).json()["items"]
    assert ("lab", "lab/*") in [(one["domain"], one["pattern"]) for one in everything]
    refused(await gateway.ask("POST", "/image/allowed", {"pattern": "x", "domain": "nowhere"}), 404, "unknown-domain")


async def test_a_committed_image_runs_where_it_is_and_needs_no_pattern(gateway: Gateway) -> None:
    image = "committed.local/mine:1"
    await nodes.register(gateway.engine, an_agent("n1"))
    problem = refused(await gateway.submit(image=image), 400, "image-nowhere")
    assert "no node of resource group 'default' has the committed image" in problem["title"]
    await nodes.register(gateway.engine, an_agent("n2", images=[image]))
    await _allow(gateway, "python:*")
    answer = await gateway.submit(image=image)
    assert (answer.status_code, answer.json()["agents"]) == (201, ["n2"])


async def test_the_registries_of_a_domain_hold_for_its_sessions(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    wish = {"allowed_registries": ["registry.example"]}
    assert (await gateway.ask("PATCH", "/domain/default", wish)).status_code == 200
    problem = refused(await gateway.submit(image="python:3.12"), 400, "image-not-allowed")
    assert "comes from docker.io; allowed are registry.example" in problem["title"]
    assert (await gateway.submit(image="registry.example/python:3.12")).status_code == 201


async def test_an_id_is_no_image(gateway: Gateway) -> None:
    refused(await gateway.submit(image="a" * 64), 400, "malformed-image")


async def test_a_registrys_password_is_sealed_and_never_said(gateway: Gateway) -> None:
    path, wish = "/registry/registry.example:5000", {"username": "robot", "password": "open sesame"}
    made = await gateway.ask("PUT", path, wish)
    assert (made.status_code, made.json()["username"]) == (201, "robot")
    assert (await gateway.ask("PUT", path, {**wish, "password": "another"})).status_code == 200
    assert (await gateway.ask("PUT", path, wish)).status_code == 200
    listed = await gateway.ask("GET", "/registry")
    assert [one["host"] for one in listed.json()["items"]] == ["registry.example:5000"]
    audit = await gateway.ask("GET", "/audit?limit=100")
    assert not any("sesame" in answer.text for answer in (made, listed, audit))
    async with gateway.engine.connect() as connection:
        kept = (await connection.execute(text("SELECT password FROM registries"))).scalar_one()
    assert b"sesame" not in bytes(kept)
    assert await registries.credentials(gateway.engine, SEAL, "registry.example:5000/a:1") == ("robot", "open sesame")
    assert await registries.credentials(gateway.engine, SEAL, "registry.example/a:1") == ("", "")
    assert (await gateway.ask("DELETE", path)).status_code == 204
    refused(await gateway.ask("DELETE", path), 404, "unknown-registry")
    refused(await gateway.ask("PUT", "/registry/-x", wish), 400, "malformed-registry")


async def _has(gateway: Gateway, agent_id: str, *found: NodeImage) -> None:
    await nodes.register(gateway.engine, an_agent(agent_id))
    await images.note_details(gateway.engine, agent_id, list(found))


async def test_images_are_listed_with_their_nodes_and_forgotten_with_them(gateway: Gateway) -> None:
    await _has(gateway, "n1", NodeImage("python:3", "id1", D1, 100, 1000.0, ours=True), NodeImage("mine:1", "id2"))
    await _has(gateway, "n2", NodeImage("python:3", "id1", D1, 100, 2000.0), NodeImage("python:4", "id4", D2))
    items = (await gateway.get("/image")).json()["items"]
    assert [(one["name"], one["digest"], one["agents"]) for one in items] == [
        ("mine:1", "", ["n1"]), ("python:3", D1, ["n1", "n2"]), ("python:4", D2, ["n2"]),
    ]  # fmt: skip
    assert (items[1]["last_used"], items[1]["pulled"]) == ("1970-01-01T00:33:20+00:00", True)
    await _has(gateway, "n2", NodeImage("python:3", "id3", D2))  # its tag has moved, the other is gone
    await nodes.mark_lost(gateway.engine, "n1")
    items = (await gateway.get("/image")).json()["items"]
    assert [(one["name"], one["digest"], one["agents"]) for one in items] == [("python:3", D2, ["n2"])]


async def test_images_that_one_may_not_run_are_not_shown_to_one(gateway: Gateway) -> None:
    await _has(gateway, "n1", NodeImage("python:3", "id1"), NodeImage("secret.example/team/app:1", "id2"))
    await _allow(gateway, "python:*")
    assert [one["name"] for one in (await gateway.get("/image")).json()["items"]] == ["python:3"]
    assert len((await gateway.ask("GET", "/image")).json()["items"]) == 2


async def test_an_order_is_one_for_each_image_and_target_until_it_has_ended(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    await nodes.register(gateway.engine, an_agent("n2"))
    first = await gateway.ask("POST", "/image/pull", {"image": "python"})
    assert first.status_code == 202
    order = first.json()
    assert (order["image"], order["kind"], order["ended_at"]) == ("python:latest", "pull", None)
    assert [(one["agent"], one["state"]) for one in order["nodes"]] == [("n1", "waiting"), ("n2", "waiting")]
    again = await gateway.ask("POST", "/image/pull", {"image": "docker.io/library/python:latest"})
    assert again.json()["id"] == order["id"]
    other = await gateway.ask("POST", "/image/pull", {"image": "python", "agents": ["n2"]})
    assert [one["agent"] for one in other.json()["nodes"]] == ["n2"]
    assert [one.order_id for one in gateway.lives.image_orders] == [order["id"], order["id"], other.json()["id"]]
    await image_orders.record(gateway.engine, NodeResult(order["id"], "n1", NodeState.DONE, "", "id1", D1))
    await image_orders.record(gateway.engine, NodeResult(order["id"], "n1", NodeState.FAILED, "late"))
    await image_orders.end(gateway.engine, order["id"])
    seen = (await gateway.ask("GET", f"/image/order/{order['id']}")).json()
    assert [(one["state"], one["digest"], one["message"]) for one in seen["nodes"]] == [
        ("done", D1, ""), ("failed", "", "no result"),
    ]  # fmt: skip
    assert seen["ended_at"]
    assert [one.order_id for one in await image_orders.unfinished(gateway.engine, 0)] == [other.json()["id"]]
    assert (await gateway.ask("POST", "/image/pull", {"image": "python"})).json()["id"] != order["id"]


async def test_orders_that_reach_nobody_are_refused(gateway: Gateway) -> None:
    refused(await gateway.ask("POST", "/image/pull", {"image": "python"}), 400, "no-nodes")
    refused(await gateway.ask("POST", "/image/remove", {"image": "python", "agents": ["n9"]}), 404, "unknown-agent")
    both = {"image": "python", "agents": ["n1"], "resource_group": "default"}
    refused(await gateway.ask("POST", "/image/pull", both), 400, "invalid-api-params")
    refused(await gateway.ask("GET", "/image/order/none"), 404, "unknown-order")


def _node(*pulls: PullProgress) -> Starlette:
    """A data plane that says how far its pulls are."""

    async def answer(request: Request) -> JSONResponse:
        return JSONResponse({"items": [asdict(one) for one in pulls]})

    return Starlette(routes=[Route("/pulls", answer)])


@pytest.mark.parametrize("status", ["PREPARING", "RUNNING"])
async def test_how_far_the_image_is_comes_from_the_node_while_it_is_pulled(gateway: Gateway, status: str) -> None:
    mine = PullProgress("python:3.12", 3, 7, 41_000_000, 120_000_000)
    with served(_node(PullProgress("other:1"), mine)) as address:
        await nodes.register(gateway.engine, replace(an_agent(), address=address))
        session = await gateway.submitted(image="docker.io/library/python:3.12")
        async with gateway.engine.begin() as connection:
            await connection.execute(text("UPDATE kernels SET agent_id = 'n1'"))
            for step in ("SCHEDULED", "CREATING", status):
                await connection.execute(text("UPDATE sessions SET status = :status"), {"status": step})
        answer: httpx.Response = await gateway.get(f"/session/{session['id']}/progress")
    pulls: list[dict[str, Any]] = answer.json()["pulls"]
    if status == "RUNNING":
        assert pulls == []
    else:
        [one] = pulls
        assert (one["agent"], one["words"]) == ("n1", "pulling python:3.12: 3/7 layers, 41 of 120 MB")


async def test_the_next_attempt_runs_the_digest_that_the_first_one_ran(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    session = await gateway.submitted(image="python:3.12", on_node_loss="requeue")
    assigned = await _placed(gateway)
    assert assigned.image == "python:3.12"
    started = {assigned.kernel_id: "c1"}
    ran = {assigned.kernel_id: ("sha256:id", D1)}
    assert await ledger.record_started(gateway.engine, session["id"], 0, started, "on n1", ran)
    [kernel] = (await gateway.get(f"/session/{session['id']}")).json()["kernels"]
    assert (kernel["image_digest"], kernel["image_id"]) == (D1, "sha256:id")
    await ledger.requeue(gateway.engine, session["id"], 0, reason="node-lost", message="")
    assert (await _placed(gateway)).image == f"python@{D1}"


async def test_what_came_from_no_registry_is_not_pinned(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent())
    session = await gateway.submitted(image="mine:1", on_node_loss="requeue")
    assigned = await _placed(gateway)
    ran = {assigned.kernel_id: ("sha256:id", "")}
    await ledger.record_started(gateway.engine, session["id"], 0, {assigned.kernel_id: "c1"}, "on n1", ran)
    await ledger.requeue(gateway.engine, session["id"], 0, reason="node-lost", message="")
    assert (await _placed(gateway)).image == "mine:1"


async def _placed(gateway: Gateway) -> KernelSpec:
    epoch = await placements.take_epoch(gateway.engine, "default")
    decisions = decide(await read_snapshot(gateway.engine, "default"), Policy())
    [assigned] = await placements.commit_decisions(gateway.engine, "default", epoch, decisions, SEAL)
    return assigned.kernels[0]
