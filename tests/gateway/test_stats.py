"""What sessions use, for who may read them; nodes that do not answer hold nobody up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from moorage.db import ledger
from moorage.domain.session import Ending
from moorage.domain.usage import DeviceUsage, KernelUsage
from tests.support.gateway import Gateway, refused
from tests.support.measured import Cluster, SilentNode, TalkingNode

MIB = 1024**2
WISH: dict[str, Any] = {"resources": {"cpu": 2, "mem": "64m"}}


@pytest.fixture
async def cluster(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(gateway, tmp_path)
    await cluster.add("n1")
    yield cluster
    await cluster.close()


async def test_a_running_session_shows_what_it_uses(gateway: Gateway, cluster: Cluster) -> None:
    session = await gateway.submitted(**WISH)
    await cluster.run(session, "n1")
    await cluster.pass_time()
    found = (await gateway.get(f"/session/{session['name']}/stats", since_s="900")).json()
    [kernel] = found["kernels"]
    stats = kernel["stats"]
    assert found["session"] == {"id": session["id"], "name": session["name"], "status": "RUNNING"}
    assert (kernel["role"], kernel["idx"], kernel["agent"]) == ("main", 1, "n1")
    assert (stats["cpu"]["limit"], stats["mem"]["limit"]) == (2000, 64 * MIB)
    assert (stats["mem"]["used"], stats["mem"]["percent"], stats["mem"]["peak"]) == (16 * MIB, 25.0, 16 * MIB)
    assert stats["cpu"]["used"] is not None
    assert stats["cpu"]["percent"] == round(stats["cpu"]["used"] / 20, 1)
    assert (stats["pids"], stats["devices"]) == (2, [])
    assert stats["io"]["read_bytes_s"] is not None
    assert stats["net"]["rx_bytes"] is not None
    assert [point["mem"] for point in kernel["history"]] == [16 * MIB, 16 * MIB]
    assert (found["total"]["mem"], found["usage"], found["unanswered"]) == (stats["mem"], None, [])


async def test_a_gang_shows_each_kernel_and_their_sum(gateway: Gateway, cluster: Cluster) -> None:
    await cluster.add("n2")
    session = await gateway.submitted(**WISH, cluster_size=2, cluster_mode="multi-node")
    await cluster.run(session, "n1", "n2")
    await cluster.pass_time()
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert [(one["role"], one["agent"]) for one in found["kernels"]] == [("main", "n1"), ("sub", "n2")]
    assert found["total"]["mem"]["used"] == 32 * MIB
    assert found["total"]["cpu"]["limit"] == 4000


async def test_the_sum_with_a_part_that_is_unknown_is_unknown(gateway: Gateway, cluster: Cluster) -> None:
    await cluster.add("n2", SilentNode())
    session = await gateway.submitted(**WISH, cluster_size=2, cluster_mode="multi-node")
    await cluster.run(session, "n1", "n2")
    await cluster.pass_time()
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert [one["stats"] is None for one in found["kernels"]] == [False, True]
    assert (found["total"], found["unanswered"]) == (None, ["n2"])


@pytest.mark.parametrize("answer", ["nonsense", "[]", '{"kernels": 5}', '{"kernels": [{"stats": 5}]}', '{"node": [1]}'])
async def test_a_node_that_answers_nonsense_has_not_answered(gateway: Gateway, cluster: Cluster, answer: str) -> None:
    await cluster.add("n2", TalkingNode(answer))
    session = await gateway.submitted(**WISH)
    await cluster.run(session, "n2")
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert (found["kernels"][0]["stats"], found["unanswered"]) == (None, ["n2"])


async def test_a_lost_node_is_not_asked(gateway: Gateway, cluster: Cluster) -> None:
    session = await gateway.submitted(**WISH)
    await cluster.run(session, "n1")
    await cluster.pass_time()
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE agents SET status = 'LOST'"))
    found = (await gateway.get("/stats")).json()
    assert ([one["stats"] for one in found["items"]], found["unanswered"]) == ([None], ["n1"])


async def test_what_an_earlier_attempt_uses_is_not_the_sessions(gateway: Gateway, cluster: Cluster) -> None:
    session = await gateway.submitted(**WISH)
    await cluster.run(session, "n1")
    await cluster.pass_time()
    async with gateway.engine.begin() as connection:
        await connection.execute(text("UPDATE sessions SET attempt = 1"))
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert found["kernels"][0]["stats"] is None


async def test_a_waiting_session_uses_nothing_that_is_known(gateway: Gateway) -> None:
    session = await gateway.submitted(**WISH)
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert [(one["agent"], one["stats"], one["history"]) for one in found["kernels"]] == [(None, None, [])]
    assert (found["total"], found["unanswered"]) == (None, [])


async def test_all_running_sessions_are_answered_at_once(gateway: Gateway, cluster: Cluster) -> None:
    await cluster.add("n2")
    running = [await gateway.submitted(**WISH) for _ in range(3)]
    await gateway.submitted(**WISH)
    for session, agent in zip(running, ("n1", "n2", "n2"), strict=True):
        await cluster.run(session, agent)
    await cluster.pass_time()
    found = (await gateway.get("/stats")).json()
    assert [one["id"] for one in found["items"]] == [session["id"] for session in reversed(running)]
    assert [one["agents"] for one in found["items"]] == [["n2"], ["n2"], ["n1"]]
    assert {one["stats"]["mem"]["used"] for one in found["items"]} == {16 * MIB}
    assert (found["total"], found["unanswered"]) == (3, [])
    few = (await gateway.get("/stats", limit="1")).json()
    assert (len(few["items"]), few["total"]) == (1, 3)


async def test_somebody_elses_session_shows_nothing_of_what_it_uses(gateway: Gateway, cluster: Cluster) -> None:
    session = await gateway.submitted(**WISH)
    await cluster.run(session, "n1")
    await cluster.pass_time()
    refused(await gateway.get(f"/session/{session['id']}/stats", gateway.bob), 404, "object-not-found")
    assert (await gateway.get("/stats", gateway.bob)).json()["items"] == []
    assert len((await gateway.get("/stats", gateway.root)).json()["items"]) == 1


@pytest.mark.parametrize("since", ["-1", "901", "soon"])
async def test_a_history_of_what_is_not_kept_is_refused(gateway: Gateway, since: str) -> None:
    session = await gateway.submitted(**WISH)
    refused(await gateway.get(f"/session/{session['id']}/stats", since_s=since), 400, "invalid-api-params")


async def _ended(gateway: Gateway, cluster: Cluster, *, seconds: float, cpu_ms: int, busy: float) -> dict[str, Any]:
    session = await gateway.submitted(resources={"cpu": 8, "mem": "2g"})
    await cluster.run(session, "n1")
    async with gateway.engine.connect() as connection:
        kernel_id = str((await connection.execute(text("SELECT id FROM kernels"))).scalar_one())
    usage = KernelUsage(
        kernel_id, 0, seconds, cpu_ms=cpu_ms, cpu_peak=900, mem_avg=64 * MIB, mem_peak=512 * MIB,
        mem_used_peak=96 * MIB, io_read=1, io_write=2, net_rx=3, devices=[DeviceUsage("gpu-0", busy, 90.0, 5)],
    )  # fmt: skip
    await ledger.finish(
        gateway.engine, session["id"], Ending("TERMINATED", "self-terminated"), actor="workflow", usage=[usage]
    )
    return session


async def test_an_ended_session_shows_what_it_used_and_what_it_wasted(gateway: Gateway, cluster: Cluster) -> None:
    session = await _ended(gateway, cluster, seconds=100, cpu_ms=30_000, busy=2.0)
    usage = (await gateway.get(f"/session/{session['id']}")).json()["usage"]
    assert usage["cpu"] == {"asked": 8000, "average": 300, "peak": 900, "total_ms": 30_000}
    assert usage["mem"] == {"asked": 2048 * MIB, "average": 64 * MIB, "peak": 512 * MIB, "peak_used": 96 * MIB}
    assert (usage["io"], usage["net"]) == ({"read_bytes": 1, "write_bytes": 2}, {"rx_bytes": 3, "tx_bytes": None})
    assert usage["waste"] == [
        "asked 8 cores, used 0.3 on average",
        "asked 2 GiB of memory, used 96 MiB at most",
        "device gpu-0 was busy 2 % of the time",
    ]
    found = (await gateway.get(f"/session/{session['id']}/stats")).json()
    assert (found["usage"], found["kernels"], found["total"]) == (usage, [], None)
    assert (await gateway.get("/stats")).json()["items"] == []


async def test_too_short_a_life_is_no_waste(gateway: Gateway, cluster: Cluster) -> None:
    session = await _ended(gateway, cluster, seconds=59, cpu_ms=0, busy=0.0)
    assert (await gateway.get(f"/session/{session['id']}")).json()["usage"]["waste"] == []


async def test_a_session_that_nobody_measured_has_no_usage(gateway: Gateway) -> None:
    session = await gateway.submitted(**WISH)
    await gateway.end(session["id"])
    assert (await gateway.get(f"/session/{session['id']}")).json()["usage"] is None
