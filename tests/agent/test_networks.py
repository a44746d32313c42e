"""Networks of sessions on one real Docker engine; over several nodes they are tested in tests/integration."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import docker
import pytest

from agent_worker.runtimes import networks
from agent_worker.runtimes.contract import CreateRefused
from agent_worker.runtimes.docker import DockerRuntime
from moorage.domain.ids import new_id
from moorage.domain.network import KernelNetwork, NetworkPolicy, candidates, kernel_networks
from moorage.domain.session import KernelSpec
from tests.agent.specs import a_spec
from tests.support.leaks import networks_of, remove_networks

pytestmark = pytest.mark.docker


@pytest.fixture
async def agents(engine_client: docker.APIClient, agent_id: str) -> AsyncIterator[list[DockerRuntime]]:
    """Two agents of one cluster, of this test's own, on one engine; nothing of them is left."""
    made = [DockerRuntime(f"{agent_id}-{number}", cluster=agent_id) for number in (1, 2)]
    async with AsyncExitStack() as stack:
        for runtime in made:
            stack.push_async_callback(runtime.close)
        yield made
        for runtime in made:
            for seen in await runtime.containers():
                await runtime.remove(seen)
    for number in (1, 2):
        remove_networks(engine_client, f"{agent_id}-{number}", agent_id)
    assert networks_of(engine_client, agent_id) == []


def a_gang(
    size: int = 2, *, policy: str = NetworkPolicy.OPEN, nodes: tuple[str, ...] = ("n1",), underlay: str = "127.0.0.1"
) -> list[KernelSpec]:
    """Kernels of one session, placed on the nodes in turn."""
    session_id, hosts = new_id(), ["main1", *(f"sub{number}" for number in range(1, size))]
    subnet = candidates("10.250.0.0/16", size, int(session_id[:8], 16))[0]
    specs = [a_spec("busybox", "httpd", "-f", "-p", "8000", "-h", "/etc") for _ in hosts]
    placed = {spec.kernel_id: nodes[number % len(nodes)] for number, spec in enumerate(specs)}
    kernels = [(spec.kernel_id, host) for spec, host in zip(specs, hosts, strict=True)]
    given = dict(kernel_networks(policy, subnet, kernels, placed, dict.fromkeys(nodes, underlay)))
    return [
        replace(spec, session_id=session_id, hostname=host, cluster=hosts, network=given[spec.kernel_id])
        for spec, host in zip(specs, hosts, strict=True)
    ]


async def said(runtime: DockerRuntime, spec: KernelSpec, *command: str) -> str:
    seen = next(one for one in await runtime.containers() if one.kernel_id == spec.kernel_id)
    return (await runtime.execute(seen, list(command), 20)).stdout


async def asked(runtime: DockerRuntime, spec: KernelSpec, host: str) -> str:
    request = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox timeout 2 busybox nc {host} 8000 | head -n 1"
    return (await said(runtime, spec, "sh", "-c", request)).strip()


async def test_kernels_of_a_gang_reach_each_other_and_its_network_goes_with_the_last_of_them(
    agents: list[DockerRuntime], engine_client: docker.APIClient, agent_id: str
) -> None:
    """Also when two agents share an engine, as with `moor up --agents 2`."""
    main, sub = a_gang(nodes=("n1", "n2"))
    stranger, *_ = a_gang()
    await asyncio.gather(*(one.create(spec) for one, spec in zip(agents, (main, sub), strict=True)))
    await agents[0].create(stranger)
    assert "200 OK" in await asked(agents[0], main, "sub1") or "404" in await asked(agents[0], main, "sub1")
    assert "HTTP" in await asked(agents[1], sub, "main1")
    assert main.network is not None
    assert await asked(agents[0], stranger, main.network.address) == ""
    assert f"{main.network.address}\tmain1" in await said(agents[1], sub, "cat", "/etc/hosts")
    of_gang = f"moorage-{agent_id}-{main.session_id}-0"
    for runtime in agents:
        assert of_gang in networks_of(engine_client, agent_id)
        for seen in [one for one in await runtime.containers() if one.session_id == main.session_id]:
            await runtime.remove(seen)
    assert networks_of(engine_client, agent_id) == [f"moorage-{agent_id}-{stranger.session_id}-0"]


async def test_neighbours_of_one_bridge_do_not_reach_each_other(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    one, other = (a_spec("busybox", "httpd", "-f", "-p", "8000", agent_id=agent_id) for _ in range(2))
    started = [await docker_runtime.create(spec) for spec in (one, other)]
    network = docker_runtime.networks.shared()
    inspected = [engine_client.inspect_container(each.container_id) for each in started]
    address = inspected[1]["NetworkSettings"]["Networks"][network]["IPAddress"]
    assert "HTTP" in await asked(docker_runtime, other, address), "it does listen"
    assert await asked(docker_runtime, one, address) == ""
    assert all(not each["HostConfig"]["PortBindings"] for each in inspected), "nothing is published"


async def test_a_session_without_network_has_loopback_alone(docker_runtime: DockerRuntime, agent_id: str) -> None:
    spec = a_spec(agent_id=agent_id, network=KernelNetwork(NetworkPolicy.NONE))
    await docker_runtime.create(spec)
    assert await said(docker_runtime, spec, "ls", "/sys/class/net") == "lo\n"


async def test_an_internal_session_has_no_way_out_and_asks_no_name_server(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    spec = a_spec(agent_id=agent_id, network=KernelNetwork(NetworkPolicy.INTERNAL))
    started = await docker_runtime.create(spec)
    network = engine_client.inspect_network(docker_runtime.networks.shared(internal=True))
    assert list(network["Containers"]) == [started.container_id]
    assert network["Internal"]
    assert engine_client.inspect_container(started.container_id)["HostConfig"]["Dns"] == ["127.0.0.1"]


async def test_what_a_crash_left_is_swept_and_what_lives_is_kept(
    agents: list[DockerRuntime],
    engine_client: docker.APIClient,
    agent_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lives, dead = a_gang(), a_gang()
    with agents[0].networks.joined(dead[0]):
        agents[0].networks.sweep()
        assert len(networks_of(engine_client, agent_id)) == 1, "its container is about to be made"
    await agents[0].create(lives[0])
    agents[1].networks.sweep()
    assert len(networks_of(engine_client, agent_id)) == 2, "another agent's container may be about to be made"
    monkeypatch.setattr(networks, "_YOUNG_S", 0.0)
    agents[1].networks.sweep()
    assert networks_of(engine_client, agent_id) == [f"moorage-{agent_id}-{lives[0].session_id}-0"]
    # Its agent's successor takes it along with the last kernel.
    [seen] = await agents[0].containers()
    agents[1].networks.sweep()
    await agents[1].remove(seen)
    assert networks_of(engine_client, agent_id) == []


async def test_a_gang_over_nodes_is_refused_in_words_where_a_node_has_no_address(
    agents: list[DockerRuntime],
) -> None:
    main, _ = a_gang(nodes=("n1", "n2"), underlay="")
    with pytest.raises(CreateRefused, match="set MOORAGE_AGENT_OVERLAY_ADDRESS"):
        await agents[0].create(main)
    assert await agents[0].containers() == []


async def test_a_network_that_somebody_removed_is_made_again(
    docker_runtime: DockerRuntime, engine_client: docker.APIClient, agent_id: str
) -> None:
    engine_client.remove_network(docker_runtime.networks.shared())
    with pytest.raises(CreateRefused, match="not found"):
        await docker_runtime.create(a_spec(agent_id=agent_id))
    await docker_runtime.create(a_spec(agent_id=agent_id))
