"""Whole lives of sessions, against bare workflows of the same shape on the same Temporal."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from moorage.cli import show
from moorage.cli.bench.connection import Connection, request
from moorage.cli.bench.own_cluster import OwnCluster, first_word, own_cluster, process
from moorage.cli.profile import Profile
from moorage.contracts import names
from moorage.domain.errors import MoorageError

if TYPE_CHECKING:
    from temporalio.client import Client

_AT_ONCE = 32
_CHUNK = 75
_CHUNK_S = 300.0
_WISH = {
    "image": "moorage-test-busybox:1",
    "type": "batch",
    "command": ["exit", "0"],
    "resources": {"cpu": "0.25", "mem": "64m"},  # as many as are at work at once fit on the simulated node
}


def lifecycle(
    runtime: Annotated[str, typer.Option(help="simulated or docker.")] = "simulated",
    sessions: Annotated[int, typer.Option(min=1, max=20_000, help="How many; as many bare workflows.")] = 300,
) -> None:
    """Sessions from POST to TERMINATED, against bare workflows with one signal and two activities."""
    with (
        own_cluster(runtime=runtime) as cluster,
        process("moorage.cli.bench.bare_worker", cluster.temporal, stdout=subprocess.PIPE) as worker,
    ):
        first_word(worker)
        print(json.dumps(asyncio.run(_measure(cluster, sessions))))


async def _measure(cluster: OwnCluster, count: int) -> dict[str, float]:
    from temporalio.client import Client

    temporal = await Client.connect(cluster.temporal)
    ours, floor = _Sessions(cluster.profile, temporal), _Bare(temporal)
    try:
        for side in (ours, floor):  # fills caches on both sides
            await _live(_AT_ONCE, side.live)
        ours.ids.clear()
        seconds = floor_seconds = 0.0
        for size in _chunks(count):
            seconds += await _live(size, ours.live)
            floor_seconds += await _live(size, floor.live)
            show.note(f"{len(ours.ids)} of {count}: {seconds:.1f} s, bare {floor_seconds:.1f} s")
    finally:
        ours.close()
    await _check(cluster, ours.ids)
    return {
        "sessions": count,
        "seconds": round(seconds, 2),
        "per_s": round(count / seconds, 1),
        "floor_per_s": round(count / floor_seconds, 1),
        "ratio": round(floor_seconds / seconds, 3),
        "events_per_session": round(await _events(temporal, ours.ids), 2),
    }


def _chunks(count: int) -> list[int]:
    """The sides take turns after so many."""
    return [min(_CHUNK, count - done) for done in range(0, count, _CHUNK)]


async def _live(count: int, live: Callable[[], Awaitable[None]]) -> float:
    """How long so many lives take, in seconds, a fixed number of them at once."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with places:
            await live()

    began = time.perf_counter()
    async with asyncio.timeout(_CHUNK_S), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return time.perf_counter() - began


class _Sessions:
    """Submitted over HTTP. Their end is waited for as that of the bare ones is, by a long poll."""

    def __init__(self, profile: Profile, temporal: Client) -> None:
        address = urlsplit(profile.endpoint)
        credential = base64.b64encode(f"{profile.access_key}:{profile.secret_key}".encode()).decode()
        self._post = request("POST", "/session", f"Basic {credential}", json.dumps(_WISH).encode())
        self._temporal = temporal
        host, port = address.hostname or "", address.port or 80
        self._idle = [Connection(host, port) for _ in range(_AT_ONCE)]
        self.ids: list[str] = []

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def live(self) -> None:
        connection = self._idle.pop()
        status, body = await connection.ask(self._post)
        self._idle.append(connection)
        if status != 201:
            raise MoorageError(f"POST /session answers {status}: {body[:300].decode(errors='replace')}")
        session_id = json.loads(body)["id"]
        self.ids.append(session_id)
        await self._until_over(names.session_workflow(session_id))

    async def _until_over(self, workflow_id: str) -> None:
        """By the event that closes it: its result is encrypted."""
        from temporalio.client import WorkflowHistoryEventFilterType
        from temporalio.service import RPCError, RPCStatusCode

        handle = self._temporal.get_workflow_handle(workflow_id)
        closing = WorkflowHistoryEventFilterType.CLOSE_EVENT
        while True:
            try:
                async for _ in handle.fetch_history_events(wait_new_event=True, event_filter_type=closing):
                    return
            except RPCError as error:  # it is started beside the answer
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
            await asyncio.sleep(0.005)


class _Bare:
    def __init__(self, temporal: Client) -> None:
        self._temporal = temporal

    async def live(self) -> None:
        from moorage.cli.bench.bare_workflow import QUEUE, BareWorkflow

        handle = await self._temporal.start_workflow(
            BareWorkflow.run,
            "bare",
            id=f"bare-{uuid.uuid4()}",
            task_queue=QUEUE,
            start_signal="tell",
            start_signal_args=["go"],
        )
        await handle.result()


async def _check(cluster: OwnCluster, ids: list[str]) -> None:
    """No figures without proof: each session ended well, and the invariants hold."""
    import asyncpg

    from moorage.db.invariants import violations

    connection = await asyncpg.connect(cluster.database_url)
    try:
        ended = await connection.fetchval(
            "SELECT count(*) FROM sessions WHERE id = ANY($1::uuid[]) AND status = 'TERMINATED' AND exit_code = 0", ids
        )
    finally:
        await connection.close()
    if ended != len(ids):
        raise MoorageError(f"{len(ids) - ended} of {len(ids)} sessions did not end TERMINATED with exit code 0")
    if found := await violations(cluster.database_url):
        raise MoorageError(f"{len(found)} invariants are broken: {found[0]}")


async def _events(temporal: Client, ids: list[str]) -> float:
    """The mean length of the sessions' histories."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def length(session_id: str) -> int:
        async with places:
            seen: Any = await temporal.get_workflow_handle(names.session_workflow(session_id)).describe()
            return int(seen.history_length)

    lengths = await asyncio.gather(*(length(one) for one in ids))
    return sum(lengths) / len(lengths)
