"""Networks of gangs on a real PostgreSQL: each its own, kept until no node may have it any more."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage import ssh_keys
from moorage.db import ledger, networks, nodes, placements
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.session import Ending, KernelSpec, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import GIB, KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
LOST = Ending(SessionStatus.ERROR, Reason.NODE_LOST, "lost", "FAILURE")
DONE = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED, "exit code 0", "SUCCESS", 0)


async def a_gang(engine: AsyncEngine, user: str, kernels: int = 2, cpu: int = 4000) -> str:
    key = SEAL.seal(ssh_keys.made())
    session_id, _ = await a_pending_session(
        engine, user, kernels=kernels, cpu=cpu, mem=GIB // 16, cluster_mode="multi-node", ssh_key=key
    )
    return session_id


async def two_nodes(engine: AsyncEngine) -> None:
    for number in (1, 2):
        await nodes.register(engine, replace(an_agent(f"n{number}"), overlay_address=f"192.0.2.{number}"))


async def place(engine: AsyncEngine, pool: str = "10.128.0.0/9") -> dict[str, list[KernelSpec]]:
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    made = await placements.commit_decisions(engine, "default", epoch, decisions, SEAL, network_pool=pool)
    return {str(one.row["id"]): one.kernels for one in made}


async def held(engine: AsyncEngine) -> dict[tuple[str, int], str]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT session_id::text, attempt, subnet::text FROM session_networks"))
        return {(row.session_id, row.attempt): row.subnet for row in rows}


async def test_a_placed_gang_has_a_network_and_each_kernel_knows_the_others(
    engine: AsyncEngine, database_url: str
) -> None:
    await two_nodes(engine)
    session_id = await a_gang(engine, await a_user(engine))
    [kernels] = (await place(engine)).values()
    subnet = (await held(engine))[session_id, 0]
    given = [kernel.network for kernel in kernels]
    assert [one.subnet for one in given if one] == [subnet, subnet]
    assert [one.peers for one in given if one] in ([["192.0.2.2"], ["192.0.2.1"]], [["192.0.2.1"], ["192.0.2.2"]])
    assert sorted(kernels[0].files) == sorted(
        f"/run/moorage/ssh/{name}"
        for name in ("authorized_keys", "config", "id_ed25519", "id_ed25519.pub", "known_hosts")
    )
    assert kernels[0].files == kernels[1].files
    assert kernels[0].env["MOORAGE_SSH_DIR"] == "/run/moorage/ssh"
    assert (await ledger.session_state(engine, session_id, SEAL))[2] == kernels, "a workflow that takes over sees it"
    assert await violations(database_url) == []


async def test_a_session_of_one_kernel_has_neither_network_nor_key(engine: AsyncEngine) -> None:
    await two_nodes(engine)
    await a_pending_session(engine, await a_user(engine))
    [[kernel]] = (await place(engine)).values()
    assert (kernel.network, kernel.files) == (None, {})
    assert await held(engine) == {}


@pytest.mark.parametrize("policy", ["internal", "none"])
async def test_what_one_may_reach_is_said_where_it_is_not_the_world(engine: AsyncEngine, policy: str) -> None:
    await two_nodes(engine)
    await a_pending_session(engine, await a_user(engine), network=policy)
    [[kernel]] = (await place(engine)).values()
    assert kernel.network is not None
    assert (kernel.network.policy, kernel.network.subnet) == (policy, "")


async def test_the_network_goes_with_the_session_and_a_requeued_one_gets_another(engine: AsyncEngine) -> None:
    await two_nodes(engine)
    session_id = await a_gang(engine, await a_user(engine))
    await place(engine)
    first = (await held(engine))[session_id, 0]
    await ledger.requeue(engine, session_id, 0, reason="node-lost", message="lost")
    assert await held(engine) == {}
    await place(engine)
    [(attempt, second)] = [(key[1], subnet) for key, subnet in (await held(engine)).items()]
    assert attempt == 1
    assert second != first
    await ledger.finish(engine, session_id, DONE, actor="workflow")
    assert await held(engine) == {}


async def test_what_a_lost_node_may_still_have_is_given_to_nobody(engine: AsyncEngine, database_url: str) -> None:
    """Else the old kernels, when their node is back, would find themselves in the network of a stranger."""
    await two_nodes(engine)
    session_id = await a_gang(engine, await a_user(engine))
    await place(engine)
    for name in ("n1", "n2"):
        await nodes.mark_lost(engine, name)
    await ledger.finish(engine, session_id, LOST, actor="workflow", fenced=["n1", "n2"])
    assert len(await held(engine)) == 1
    assert await violations(database_url) == []
    # Both come back at once: the last one releases it, whichever it is.
    await asyncio.gather(*(nodes.release_fenced(engine, name, []) for name in ("n1", "n2")))
    assert await held(engine) == {}


async def test_gangs_of_any_sizes_never_overlap_and_one_too_many_waits_and_says_why(engine: AsyncEngine) -> None:
    await two_nodes(engine)
    user = await a_user(engine)
    made = [await a_gang(engine, user, kernels, cpu=100) for kernels in (2, 3, 5, 2, 9)]
    await place(engine, pool="10.9.0.0/26")
    subnets = [ipaddress.IPv4Network(one) for one in (await held(engine)).values()]
    assert not any(one.overlaps(other) for one in subnets for other in subnets if one is not other)
    assert 2 <= len(subnets) < len(made)
    async with engine.connect() as connection:
        waiting = (
            await connection.execute(text("SELECT waiting_because FROM sessions WHERE status = 'PENDING'"))
        ).scalars()
        assert all("kernels is free in 10.9.0.0/26; see MOORAGE_NETWORK_POOL" in why for why in waiting)


async def test_two_passes_at_once_never_take_the_same_network(engine: AsyncEngine) -> None:
    user = await a_user(engine)
    gangs = [await a_gang(engine, user) for _ in range(8)]

    async def take(session_id: str) -> str:
        async with engine.begin() as connection:
            return await networks.allocate(connection, session_id, 0, 2, "10.9.0.0/26")

    taken = await asyncio.gather(*(take(one) for one in gangs))
    assert len(set(taken)) == 8
    with pytest.raises(networks.NoNetworkLeft):
        await take(await a_gang(engine, user))
