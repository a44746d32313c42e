"""Running the directions of one connection beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*parts: Coroutine[Any, Any, None], beside: Coroutine[Any, Any, None]) -> None:
    """Until one of the parts has ended or any has failed; raises what failed. None goes on behind it."""
    leading = {asyncio.ensure_future(one) for one in parts}
    tasks = {asyncio.ensure_future(beside), *leading}
    waiting = set(tasks)
    try:
        while not any(task.done() for task in leading):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def all_of(*parts: Coroutine[Any, Any, None], until: Coroutine[Any, Any, None]) -> None:
    """Until all the parts have ended, or `until` has, or any has failed."""

    async def together() -> None:
        await asyncio.gather(*parts)

    async def nothing() -> None: ...

    await first_of(together(), until, beside=nothing())
