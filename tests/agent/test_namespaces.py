"""Network namespaces that are made ahead, on a real Docker engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import docker
import pytest

from agent_worker.runtimes.docker import DockerRuntime
from moorage.contracts.names import LABEL_NAMESPACE, node_label
from tests.agent.specs import a_spec
from tests.support.leaks import remove_networks

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime(engine_client: docker.APIClient, agent_id: str) -> AsyncIterator[DockerRuntime]:
    """A runtime that keeps one namespace ready; nothing of it is left."""
    runtime = DockerRuntime(agent_id, namespaces=1)
    yield runtime
    for seen in await runtime.containers():
        await runtime.remove(seen)
    await runtime.close()
    for left in held(engine_client, agent_id):
        engine_client.remove_container(left, force=True)
    remove_networks(engine_client, agent_id)


def held(client: docker.APIClient, agent_id: str) -> list[str]:
    found = client.containers(all=True, filters={"label": f"{LABEL_NAMESPACE}={node_label('moorage', agent_id)}"})
    return [one["Id"] for one in found]


def network_of(client: docker.APIClient, container_id: str) -> str:
    return str(client.inspect_container(container_id)["HostConfig"]["NetworkMode"])


async def test_a_container_joins_the_one_that_is_ready_and_has_an_address(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    [ready] = held(engine_client, agent_id)
    started = await runtime.create(a_spec(agent_id=agent_id))
    assert network_of(engine_client, started.container_id) == f"container:{ready}"
    [seen] = await runtime.containers()
    inside = await runtime.execute(seen, ["sh", "-c", "cat /proc/net/dev; cat /proc/sys/kernel/hostname"], 20)
    assert "eth0" in inside.stdout
    assert inside.stdout.endswith("main1\n")


async def test_two_containers_never_share_one(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    specs = [a_spec(agent_id=agent_id), a_spec(agent_id=agent_id)]
    started = await asyncio.gather(*(runtime.create(spec) for spec in specs))
    networks = {network_of(engine_client, one.container_id) for one in started}
    assert runtime.networks.shared() in networks
    assert len(networks) == 2


async def test_it_goes_with_its_container_and_the_next_one_is_ready(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    [first] = held(engine_client, agent_id)
    await runtime.create(a_spec(agent_id=agent_id))
    await runtime.namespaces.upkeep()
    assert len(held(engine_client, agent_id)) == 2, "the one in use stays"
    [seen] = await runtime.containers()
    await runtime.remove(seen)
    await runtime.namespaces.upkeep()
    [second] = held(engine_client, agent_id)
    assert second != first


async def test_what_a_killed_agent_had_ready_is_removed_by_its_successor(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    before = held(engine_client, agent_id)
    successor = DockerRuntime(agent_id, namespaces=1)
    await successor.namespaces.upkeep()
    assert len(held(engine_client, agent_id)) == 1
    assert held(engine_client, agent_id) != before
    await successor.close()


async def test_a_container_starts_though_the_one_that_was_ready_has_died(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    [ready] = held(engine_client, agent_id)
    engine_client.kill(ready)
    started = await runtime.create(a_spec(agent_id=agent_id))
    assert network_of(engine_client, started.container_id) == runtime.networks.shared()


async def test_closing_leaves_none_that_waits(
    runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    await runtime.namespaces.upkeep()
    await runtime.namespaces.close()
    assert held(engine_client, agent_id) == []
