"""Gangs, dependencies, devices and times of sessions over HTTP, and what is refused at the door."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moorage.db import nodes
from moorage.domain.node import Device
from moorage.domain.resources import SHARES_OF_A_DEVICE
from tests.support.builders import GIB, an_agent
from tests.support.gateway import Gateway, refused


async def devices(gateway: Gateway, *totals: int, agent: str = "n1", slot: str = "cuda.shares") -> None:
    """The agent has devices of these sizes; one of size 0 is unhealthy."""
    found = [
        Device(f"gpu{number}", slot, total or SHARES_OF_A_DEVICE, healthy=total > 0)
        for number, total in enumerate(totals)
    ]
    await nodes.register(gateway.engine, an_agent(agent, devices=found))


# ---- gangs


async def test_a_gang_has_a_main_kernel_and_numbered_others(gateway: Gateway) -> None:
    made = await gateway.submitted(cluster_size=3, cluster_mode="multi-node")
    shown = (await gateway.get(f"/session/{made['id']}")).json()
    assert [(one["role"], one["idx"], one["agent"]) for one in shown["kernels"]] == [
        ("main", 1, None),
        ("sub", 1, None),
        ("sub", 2, None),
    ]
    assert (made["cluster_size"], made["cluster_mode"]) == (3, "multi-node")


async def test_a_gang_larger_than_the_group_is_refused_with_the_numbers(gateway: Gateway) -> None:
    for name in ("n1", "n2"):
        await nodes.register(gateway.engine, an_agent(name, cpu=4000))
    fits: dict[str, Any] = {"cluster_mode": "multi-node", "resources": {"cpu": 2}}
    problem = refused(await gateway.submit(cluster_size=5, **fits), 422, "unsatisfiable")
    assert (problem["data"]["kernels"], problem["data"]["fitting"]) == (5, 4)
    assert "5 kernels of cpu 2" in problem["title"]
    await gateway.submitted(cluster_size=4, **fits)


async def test_a_gang_on_one_node_must_fit_the_largest_node(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1", cpu=4000))
    await nodes.register(gateway.engine, an_agent("n2", cpu=8000))
    problem = refused(await gateway.submit(cluster_size=5, resources={"cpu": 2}), 422, "unsatisfiable")
    assert (problem["data"]["kernels"], problem["data"]["fitting"]) == (5, 4)
    assert "multi-node" in problem["hint"]
    await gateway.submitted(cluster_size=4, resources={"cpu": 2})
    await gateway.submitted(cluster_size=5, resources={"cpu": 2}, cluster_mode="multi-node")


async def test_a_cordoned_node_counts_as_room(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1", cpu=8000))
    await nodes.register(gateway.engine, an_agent("n2", cpu=1000))
    await gateway.ask("PATCH", "/agent/n1", {"schedulable": False})
    await gateway.submitted(resources={"cpu": 8})


async def test_an_architecture_that_no_node_has_is_refused(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    problem = refused(await gateway.submit(architecture="aarch64"), 422, "unsatisfiable")
    assert "x86_64" in problem["title"]
    await nodes.register(gateway.engine, an_agent("n2", architecture="aarch64", cpu=1000))
    assert (await gateway.submitted(architecture="aarch64"))["architecture"] == "aarch64"
    refused(await gateway.submit(architecture="aarch64", resources={"cpu": 2}), 422, "unsatisfiable")


# ---- devices


async def test_a_fraction_of_a_device_must_fit_on_one(gateway: Gateway) -> None:
    await devices(gateway, 50, 50)
    problem = refused(await gateway.submit(resources={"cuda.shares": 0.8}), 422, "unsatisfiable")
    assert "no single device" in problem["title"]
    assert (await gateway.submitted(resources={"cuda.shares": 0.5}))["slots"]["cuda.shares"] == 50


async def test_fractions_of_a_gang_are_counted_by_device(gateway: Gateway) -> None:
    await devices(gateway, 100, 100)
    problem = refused(await gateway.submit(cluster_size=3, resources={"cuda.shares": 0.6}), 422, "unsatisfiable")
    assert problem["data"]["fitting"] == 2
    await gateway.submitted(cluster_size=4, resources={"cuda.shares": 0.5, "mem": "64m", "cpu": "0.1"})


async def test_an_unhealthy_device_is_no_room_for_a_fraction(gateway: Gateway) -> None:
    await devices(gateway, 0)
    refused(await gateway.submit(resources={"cuda.shares": 0.5}), 422, "unsatisfiable")


async def test_a_fraction_finer_than_the_quantum_is_refused(gateway: Gateway) -> None:
    await devices(gateway, 100)
    problem = refused(await gateway.submit(resources={"cuda.shares": 0.555}), 400, "malformed-size")
    assert "0.01" in problem["title"]


async def test_an_unknown_slot_is_refused_with_the_known_ones(gateway: Gateway) -> None:
    await devices(gateway, 1, slot="cuda.device")
    problem = refused(await gateway.submit(resources={"tpu.device": 1}), 400, "unknown-slot")
    assert problem["data"]["allowed"] == ["cpu", "mem", "cuda.device"]


async def test_whole_devices_and_shares_exclude_each_other(gateway: Gateway) -> None:
    problem = refused(await gateway.submit(resources={"cuda.device": 1, "cuda.shares": 0.5}), 400, "exclusive-slots")
    assert "cuda.device" in problem["title"]


async def test_more_devices_than_a_node_has_are_refused_with_the_node_that_has_most(gateway: Gateway) -> None:
    await devices(gateway, 1, 1, agent="gpu", slot="cuda.device")
    await nodes.register(gateway.engine, an_agent("big", cpu=64000, mem=64 * GIB))
    problem = refused(await gateway.submit(resources={"cuda.device": 3}), 422, "unsatisfiable")
    assert problem["data"]["largest"]["cuda.device"] == 2


# ---- dependencies


async def test_a_session_names_what_it_depends_on_by_id_or_name(gateway: Gateway) -> None:
    first = await gateway.submitted(name="first")
    second = await gateway.submitted(name="second")
    made = await gateway.submitted(dependencies=["first", second["id"], "first"])
    shown = (await gateway.get(f"/session/{made['id']}")).json()
    assert [(one["id"], one["name"]) for one in shown["dependencies"]] == [
        (first["id"], "first"),
        (second["id"], "second"),
    ]


async def test_a_name_means_the_live_session_of_it(gateway: Gateway) -> None:
    await gateway.end((await gateway.submitted(name="train"))["id"])
    live = await gateway.submitted(name="train")
    made = await gateway.submitted(dependencies=["train"])
    shown = (await gateway.get(f"/session/{made['id']}")).json()
    assert [one["id"] for one in shown["dependencies"]] == [live["id"]]


@pytest.mark.parametrize("who", ["ada", "root"])
async def test_somebody_elses_session_is_no_dependency(gateway: Gateway, who: str) -> None:
    theirs = await gateway.submitted(gateway.bob, name="theirs")
    for ref in ("theirs", theirs["id"], "none-such", "00000000-0000-4000-8000-000000000009"):
        problem = refused(await gateway.submit(getattr(gateway, who), dependencies=[ref]), 404, "dependency-not-found")
        assert problem["data"] == {"dependency": ref}


@pytest.mark.parametrize(("status", "result"), [("TERMINATED", "FAILURE"), ("CANCELLED", "UNDEFINED"), ("ERROR", "")])
async def test_a_dependency_that_has_failed_is_refused_unless_it_may(
    gateway: Gateway, status: str, result: str
) -> None:
    first = await gateway.submitted(name="first")
    await gateway.end(first["id"], status, result)
    problem = refused(await gateway.submit(dependencies=["first"]), 409, "dependency-failed")
    assert problem["data"]["status"] == status
    await gateway.submitted(dependencies=["first"], on_dependency_failure="run")


async def test_a_dependency_that_has_succeeded_is_met(gateway: Gateway) -> None:
    first = await gateway.submitted(name="first")
    await gateway.end(first["id"], "TERMINATED", "SUCCESS")
    await gateway.submitted(dependencies=["first"])


async def test_a_session_that_depends_on_its_own_name_is_refused(gateway: Gateway) -> None:
    await gateway.end((await gateway.submitted(name="ring"))["id"], "TERMINATED", "SUCCESS")
    refused(await gateway.submit(name="ring", dependencies=["ring"]), 400, "circular-dependency")


# ---- times, nodes and the rest


@pytest.mark.parametrize(("words", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1.5d", 129600)])
async def test_a_start_may_be_given_as_a_span(gateway: Gateway, words: str, seconds: float) -> None:
    before = datetime.now(UTC)
    made = await gateway.submitted(not_before=words)
    moment = datetime.fromisoformat(made["not_before"]) - timedelta(seconds=seconds)
    assert before <= moment <= datetime.now(UTC)


async def test_a_start_may_be_given_as_a_time(gateway: Gateway) -> None:
    for words in ("2030-01-31T08:00:00Z", "2030-01-31T09:00:00+01:00", "2030-01-31 08:00"):
        made = await gateway.submitted(not_before=words)
        assert datetime.fromisoformat(made["not_before"]) == datetime(2030, 1, 31, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    "words", ["", "soon", "10", "-5m", "10 weeks", "2030-13-01", "999999999d", "9999-12-31T23:59-12:00"]
)
async def test_what_is_no_time_is_refused(gateway: Gateway, words: str) -> None:
    answer = await gateway.submit(not_before=words)
    assert "ISO time" in refused(answer, 400, "malformed-time")["title"]


@pytest.mark.parametrize(
    "wish",
    [
        {"batch_timeout_s": 20, "lifetime_s": 10},
        {"not_before": "10m", "pending_timeout_s": 60},
        {"not_before": "2100-01-01", "pending_timeout_s": 60},
    ],
    ids=str,
)
async def test_times_that_contradict_each_other_are_refused(gateway: Gateway, wish: dict[str, Any]) -> None:
    refused(await gateway.submit(**wish), 400, "contradicting-times")


async def test_a_start_beyond_the_groups_pending_timeout_is_refused(gateway: Gateway) -> None:
    await gateway.ask("PATCH", "/resource-group/default", {"options": {"default_pending_timeout_s": 60}})
    refused(await gateway.submit(not_before="10m"), 400, "contradicting-times")
    await gateway.submitted(not_before="10m", pending_timeout_s=0)


async def test_only_superadmins_choose_the_nodes_and_only_those_of_the_group(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1"))
    refused(await gateway.submit(agents=["n1"]), 403, "forbidden")
    assert "n9" in refused(await gateway.submit(gateway.root, agents=["n1", "n9"]), 400, "unknown-agent")["title"]
    assert (await gateway.submitted(gateway.root, agents=["n1"]))["agents"] == ["n1"]


async def test_the_chosen_nodes_must_be_large_enough(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent("n1", cpu=1000))
    await nodes.register(gateway.engine, an_agent("n2", cpu=8000))
    refused(await gateway.submit(gateway.root, agents=["n1"], resources={"cpu": 4}), 422, "unsatisfiable")


async def test_what_was_asked_is_kept_and_shown(gateway: Gateway) -> None:
    wish: dict[str, Any] = {
        "preemptible": False,
        "job_priority": -7,
        "on_dependency_failure": "run",
        "architecture": "x86_64",
    }
    made = await gateway.submitted(**wish)
    assert {name: made[name] for name in wish} == wish


@pytest.mark.parametrize(
    "wish",
    [
        {"cluster_size": 0},
        {"cluster_size": 4097},
        {"cluster_mode": "ring"},
        {"architecture": "sparc"},
        {"on_dependency_failure": "pray"},
        {"dependencies": ["x"] * 65},
        {"dependencies": ["a\0"]},
        {"job_priority": 10**7},
    ],
    ids=ascii,
)
async def test_what_is_not_allowed_is_refused(gateway: Gateway, wish: dict[str, Any]) -> None:
    refused(await gateway.submit(**wish), 400, "invalid-api-params")


async def test_a_gang_without_a_network_is_refused_and_what_a_session_may_reach_is_shown(gateway: Gateway) -> None:
    answer = await gateway.submit(network="none", cluster_size=2)
    assert (answer.status_code, answer.json()["code"]) == (400, "gang-without-network")
    assert (await gateway.submit(network="everything")).status_code == 400
    alone = await gateway.submitted(network="none")
    assert alone["network"] == "none"
    assert (await gateway.submitted(cluster_size=2))["network"] == "open"
