"""Containers on this node, by order of the sessions' workflows. Each step finds what an earlier try of it has done."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

from agent_worker.images.contract import NoRoom
from agent_worker.images.node import NodeImages
from agent_worker.inventory import Inventory
from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.runtimes.contract import CreateRefused, ImageMissing, PullFailed, Runtime
from moorage.contracts import activities as contract
from moorage.contracts.activities import CreatedKernel, Destroy, Destroyed, KernelActivities, Pulled, PullImage
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec

_T = TypeVar("_T")
_BEAT_S = 3.0
# A shorter value of a variable may be a part of any word.
_SHORTEST_HIDDEN = 4
# Orders for a kernel destroyed so long ago can't be on their way any more.
_TOMBSTONE_S = 3600.0


class NodeKernels(KernelActivities):
    """Implements the promises of KernelActivities on a runtime."""

    def __init__(
        self,
        runtime: Runtime,
        logs: KeptLogs,
        inventory: Inventory | None = None,
        *,
        meter: Meter | None = None,
        images: NodeImages | None = None,
    ) -> None:
        """Without an inventory the node has no devices."""
        self._runtime = runtime
        self._logs = logs
        self._inventory = inventory or Inventory()
        self._meter = meter or Meter(runtime)
        self._images = images or NodeImages(runtime.store)
        self._locks: dict[str, asyncio.Lock] = {}
        self._destroyed: dict[str, tuple[int, float]] = {}  # kernel -> last attempt destroyed, and when (monotonic)

    @activity.defn
    async def create_kernel(self, spec: KernelSpec) -> CreatedKernel:
        async with _beating(), self._lock(spec.kernel_id):
            if spec.attempt <= self._destroyed.get(spec.kernel_id, (-1, 0.0))[0]:
                raise _final(contract.KERNEL_STOPPED, "the session was stopped before its container was made")
            began = time.perf_counter()
            if spec.attempt > 0:
                for older in await self._of(spec.kernel_id, below=spec.attempt):
                    await self._runtime.remove(older)
            try:
                reserved = self._inventory.reserve(spec.devices)
                started = await _to_its_end(self._runtime.create(spec, reserved))
            except ImageMissing as error:
                raise _final(contract.IMAGE_MISSING, str(error)) from None
            except CreateRefused as error:
                raise _final(contract.CREATE_REFUSED, without_secrets(str(error), spec)) from None
            took_ms = (time.perf_counter() - began) * 1000
            self._meter.begin(_seen(spec, started.container_id))
            ran = await self._images.ran(started.container_id, spec.image)
            return CreatedKernel(
                spec.kernel_id,
                spec.attempt,
                started.container_id,
                started.exit,
                took_ms,
                image_id=ran.image_id,
                image_digest=ran.digest,
            )

    @activity.defn
    async def pull_image(self, order: PullImage) -> Pulled:
        async with _beating(lambda: self._images.progress_of(order.image).words()):
            try:
                return await self._images.pull(order)
            except PullFailed as error:
                raise _final(contract.IMAGE_PULL_FAILED, str(error)) from None
            except ImageMissing as error:
                raise _final(contract.IMAGE_MISSING, str(error)) from None
            except NoRoom as error:
                raise _final(contract.CREATE_REFUSED, f"no room for the image: {error}") from None

    @activity.defn
    async def destroy_kernel(self, order: Destroy) -> Destroyed:
        """The grace period is waited for outside the lock, so that a forced order takes effect meanwhile."""
        async with _beating():
            self._bury(order)
            found = await self._of(order.kernel_id, below=order.attempt + 1)
            running = [container for container in found if container.state == "running"]
            await self._meter.last_look(running)
            for container in running:
                await self._runtime.stop(container, order.grace_s)
            async with self._lock(order.kernel_id):
                return await self._remove(order)

    async def _remove(self, order: Destroy) -> Destroyed:
        """A create that was under way when the order came has ended by now: what it made goes too."""
        exit, size, existed = None, 0, False
        for container in await self._of(order.kernel_id, below=order.attempt + 1):
            existed = True
            ended = await self._runtime.stop(container, 0) if container.state != "created" else None
            size = await self._logs.keep(
                container.session_id,
                container.kernel_id,
                container.attempt,
                self._runtime.logs(container, follow=False),
            )
            await self._runtime.remove(container)
            if container.attempt == order.attempt:
                exit = ended
        usage = self._meter.end(order.kernel_id, order.attempt)
        return Destroyed(order.kernel_id, order.attempt, existed, exit, size, usage)

    async def _of(self, kernel_id: str, *, below: int) -> list[ContainerSeen]:
        found = await self._runtime.containers()
        return [one for one in found if one.kernel_id == kernel_id and one.attempt < below]

    def _bury(self, order: Destroy) -> None:
        now = time.monotonic()
        for kernel_id in [one for one, (_, at) in self._destroyed.items() if now - at > _TOMBSTONE_S]:
            del self._destroyed[kernel_id]
            self._locks.pop(kernel_id, None)
        last = self._destroyed.get(order.kernel_id, (-1, 0.0))[0]
        self._destroyed[order.kernel_id] = (max(last, order.attempt), now)

    def _lock(self, kernel_id: str) -> asyncio.Lock:
        return self._locks.setdefault(kernel_id, asyncio.Lock())


def _seen(spec: KernelSpec, container_id: str) -> ContainerSeen:
    devices = sorted(spec.devices)
    return ContainerSeen(spec.session_id, spec.kernel_id, spec.attempt, container_id, "running", devices=devices)


async def _to_its_end(step: Awaitable[_T]) -> _T:
    """A cancelled create goes on in its thread: the kernel's lock is held until then, or a destroy would miss it."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def without_secrets(words: str, spec: KernelSpec) -> str:
    """A runtime's words, should they quote what the kernel was given."""
    given = {*spec.env.values(), *(b64decode(content).decode(errors="replace") for content in spec.files.values())}
    for value in sorted(given, key=len, reverse=True):
        if len(value) >= _SHORTEST_HIDDEN:
            words = words.replace(value, "[hidden]")
    return words


def _final(kind: str, words: str) -> ApplicationError:
    return ApplicationError(words, type=kind, non_retryable=True)


@asynccontextmanager
async def _beating(details: Callable[[], str] = lambda: "") -> AsyncIterator[None]:
    """Heartbeats from the third second on: quick steps cost none."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            activity.heartbeat(details())

    task = asyncio.create_task(beat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
