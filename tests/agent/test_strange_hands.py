"""Containers that somebody else made, or did something to, on real Docker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import docker
import pytest

from agent_worker.runtimes.container import container_name, labels
from agent_worker.runtimes.contract import CreateRefused, Exited
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.ends import Heard, final_state
from moorage.contracts.names import LABEL_KERNEL, LABELS, node_label
from tests.agent.specs import IMAGE, a_spec

STRANGERS = {
    "no labels": {},
    "another cluster's agent": {"moorage.agent": "other/n1"},
    "half of the labels": {LABEL_KERNEL: ""},
}


@pytest.mark.docker
@pytest.mark.parametrize("stranger", STRANGERS)
async def test_a_strangers_container_is_neither_seen_nor_taken_for_ones_own(
    stranger: str, docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    spec = a_spec(agent_id=agent_id)
    ours = labels(spec, node_label("moorage", agent_id))
    worn = {**ours, **STRANGERS[stranger]} if stranger != "no labels" else {}
    if stranger == "half of the labels":
        del worn[LABEL_KERNEL]
    name = container_name(spec.kernel_id, spec.attempt)
    made = engine_client.create_container(IMAGE, ["sleep", "600"], name=name, labels=worn)["Id"]
    try:
        with pytest.raises(CreateRefused, match=f"a container that is not Moorage's has the name {name}"):
            await docker_runtime.create(spec)
        assert await docker_runtime.containers() == []
        assert engine_client.inspect_container(made)["State"]["Status"] == "created"
    finally:
        engine_client.remove_container(made, force=True)


@pytest.mark.docker
async def test_what_is_done_by_hand_is_told_as_what_it_was(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    """Killed, removed, restarted: each end is told at once, with its own exit code."""
    async with aclosing(cast("AsyncGenerator[Exited]", docker_runtime.exits())) as told, asyncio.timeout(30):
        deaf = ("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done")
        waiting = asyncio.ensure_future(anext(told))
        killed = await docker_runtime.create(a_spec(agent_id=agent_id))
        engine_client.kill(killed.container_id)
        assert (await waiting).exit.exit_code == 137

        removed = await docker_runtime.create(a_spec(agent_id=agent_id))
        engine_client.remove_container(removed.container_id, force=True)
        assert (await anext(told)).exit.exit_code == 137

        restarted = await docker_runtime.create(a_spec(*deaf, agent_id=agent_id))
        engine_client.restart(restarted.container_id, timeout=0)
        assert (await anext(told)).exit.exit_code == 137, "not the 0 of the life that has begun since"
        assert len([one for one in await docker_runtime.containers() if one.state == "running"]) == 1


@pytest.mark.docker
async def test_one_that_was_paused_or_renamed_by_hand_is_stopped_and_removed_all_the_same(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    made = await docker_runtime.create(a_spec(agent_id=agent_id))
    engine_client.rename(made.container_id, f"renamed-{agent_id}")
    engine_client.pause(made.container_id)
    [seen] = await docker_runtime.containers()
    assert seen.state == "running"
    async with asyncio.timeout(20):
        assert (await docker_runtime.stop(seen, 0)).exit_code == 137
        await docker_runtime.remove(seen)
    assert await docker_runtime.containers() == []


def an_end(container_id: str, at_ns: int, code: int = 3) -> dict[str, object]:
    attributes = dict.fromkeys(LABELS, "x") | {"exitCode": str(code)}
    return {"id": container_id, "timeNano": at_ns, "Actor": {"Attributes": attributes}}


def test_an_end_after_the_clock_went_back_is_news_and_one_that_was_told_is_not() -> None:
    heard = Heard(lambda: 5_000.9)
    assert heard.since == 5_000
    before, after = an_end("a", 9_000_000_000_000), an_end("b", 1_000_000_000_000)
    for event in (before, after):
        assert heard.is_new(event)
        heard.note(event)
    assert heard.since == 1_000
    assert not heard.is_new(before)
    assert not heard.is_new(after)
    assert heard.is_new(an_end("a", 9_000_000_000_001)), "the same container again"


def test_how_it_ended_is_read_from_the_container_only_if_it_is_still_that_end() -> None:
    end = an_end("a", 1, code=137)
    oom = {"Running": False, "ExitCode": 137, "OOMKilled": True}
    assert final_state(end, oom) == {"ExitCode": 137, "OOMKilled": True}
    for other in (None, {**oom, "Running": True}, {**oom, "ExitCode": 0}):
        assert final_state(end, other) == {"ExitCode": 137, "OOMKilled": False}
