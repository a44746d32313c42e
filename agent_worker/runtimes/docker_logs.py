"""What a container wrote, from Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agent_worker.runtimes.engine import CHUNK, Engine, Frames, Missing
from moorage.domain.log_lines import STAMP_BYTES, unix_time


async def read_logs(
    engine: Engine, container_id: str, *, follow: bool, tail: int | None, since: str, stamps: bool
) -> AsyncIterator[bytes]:
    """The promise of Runtime.logs. Docker stamps each 16 KiB of a long line; here a line has one stamp."""
    params = {"stdout": "1", "stderr": "1", "tail": "all" if tail is None else str(tail)}
    params |= {"follow": "1"} if follow else {}
    params |= {"timestamps": "1"} if stamps else {}
    params |= {"since": unix_time(since)} if since else {}
    at_start = True
    try:
        async with engine.stream("GET", f"/containers/{container_id}/logs", params=params) as answer:
            frames, batch = Frames(answer.aiter_raw()), bytearray()
            async for _, payload in frames:
                batch += payload if at_start or not stamps else payload[STAMP_BYTES:]
                at_start = payload.endswith(b"\n")
                if not frames.another or len(batch) >= CHUNK:
                    yield bytes(batch)
                    batch.clear()
    except Missing:
        return
