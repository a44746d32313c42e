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
from agent_worker.last_words import LINES, READ_BYTES, last_lines, without
from agent_worker.metrics.meter import Meter
from agent_worker.probes import Prober
from agent_worker.proofs import Proofs
from agent_worker.runtimes.contract import (
    Checked,
    CommitRefused,
    CreateRefused,
    ImageMissing,
    PullFailed,
    Runtime,
    RuntimeAway,
    UpdateRefused,
)
from moorage import log
from moorage.contracts import activities as contract
from moorage.contracts.activities import (
    CommitKernel,
    CommittedImage,
    CreatedKernel,
    Destroy,
    Destroyed,
    HealthChange,
    KernelActivities,
    Pulled,
    PullImage,
    UpdateKernel,
)
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelSpec

_T = TypeVar("_T")
_BEAT_S = 3.0
# A restart of Docker takes some ten seconds; a node whose Docker stays away can't have the session.
_AWAY_S, _ASKED_AGAIN_S = 30.0, 0.5
# A log that can't be read in this time is lost, or what the session holds would wait for it for ever.
_KEEP_LOG_S = 20.0

_log = log.get("kernels")


class NodeKernels(KernelActivities):
    """Implements the promises of KernelActivities on a runtime."""

    def __init__(
        self,
        runtime: Runtime,
        logs: KeptLogs,
        inventory: Inventory | None = None,
        *,
        meter: Meter | None = None,
        prober: Prober | None = None,
        proofs: Proofs | None = None,
        images: NodeImages | None = None,
    ) -> None:
        """Without an inventory the node has no devices; without a prober nobody hears of its containers' health."""
        self._runtime = runtime
        self._logs = logs
        self._inventory = inventory or Inventory()
        self._meter = meter or Meter(runtime)
        self._prober = prober or Prober(runtime, _tell_nobody)
        self._images = images or NodeImages(runtime.store)
        self._locks: dict[str, asyncio.Lock] = {}
        self._proofs = proofs or Proofs()

    @activity.defn
    async def create_kernel(self, spec: KernelSpec) -> CreatedKernel:
        async with _beating(), self._lock(spec.kernel_id):
            if spec.attempt <= self._proofs.last_attempt(spec.kernel_id):
                raise _final(contract.KERNEL_STOPPED, "the session was stopped before its container was made")
            began = time.perf_counter()
            if spec.attempt > 0:
                self._prober.end(spec.kernel_id, spec.attempt - 1)
                for older in await self._of(spec.kernel_id, below=spec.attempt):
                    await self._runtime.remove(older)
            try:
                reserved = self._inventory.reserve(spec.devices)
                started = await _once_it_answers(lambda: _to_its_end(self._runtime.create(spec, reserved)))
            except ImageMissing as error:
                raise _final(contract.IMAGE_MISSING, str(error)) from None
            except CreateRefused as error:
                words = f"{without_secrets(str(error), spec)} (on {spec.agent_id})"
                raise _final(contract.CREATE_REFUSED, words) from None
            took_ms = (time.perf_counter() - began) * 1000
            seen = _seen(spec, started.container_id)
            self._meter.begin(seen)
            if spec.health is not None and started.exit is None:
                self._prober.begin(Checked(seen, spec.health, 0.0))
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
            ill = self._prober.end(order.kernel_id, order.attempt)
            found = await self._of(order.kernel_id, below=order.attempt + 1)
            failed = ill or any(_has_failed(one) for one in found if one.attempt == order.attempt)
            running = [container for container in found if container.state == "running"]
            await self._meter.last_look(running)
            for container in running:
                await self._runtime.stop(container, order.grace_s)
            async with self._lock(order.kernel_id):
                return await self._remove(order, failed=failed)

    @activity.defn
    async def update_kernel(self, order: UpdateKernel) -> None:
        async with _beating(), self._lock(order.kernel_id):
            container = await self._running(order.kernel_id, order.attempt)
            if container is None:
                raise _final(contract.UPDATE_REFUSED, "its container does not run")
            try:
                await _to_its_end(self._runtime.update(container, order.slots))
            except UpdateRefused as error:
                raise _final(contract.UPDATE_REFUSED, str(error)) from None

    @activity.defn
    async def commit_kernel(self, order: CommitKernel) -> CommittedImage:
        """Without the kernel's lock: an end must not wait for it."""
        async with _beating():
            container = await self._running(order.kernel_id, order.attempt)
            if container is None:
                raise _final(contract.COMMIT_REFUSED, "its container does not run")
            try:
                made = await self._runtime.commit(container, order.image)
            except CommitRefused as error:
                raise _final(contract.COMMIT_REFUSED, str(error)) from None
            self._images.have_changed()
            return CommittedImage(order.image, made.image_id, made.bytes)

    async def _remove(self, order: Destroy, *, failed: bool) -> Destroyed:
        """A create that was under way when the order came has ended by now: what it made goes too."""
        self._prober.end(order.kernel_id, order.attempt)
        found = await self._of(order.kernel_id, below=order.attempt + 1)
        exit, size, lines = None, 0, ""
        for container in found:
            ended = await self._runtime.stop(container, 0) if container.state != "created" else None
            kept = await self._keep_log(container)
            if container.attempt == order.attempt:
                exit, size = ended, kept
                lines = await self._last_lines(container) if failed else ""
        usage = self._meter.end(order.kernel_id, order.attempt)
        if not found and (proof := self._proofs.of(order.kernel_id, order.attempt)) is not None:
            return proof
        proof = self._proofs.keep(Destroyed(order.kernel_id, order.attempt, bool(found), exit, size, usage, lines))
        for container in found:
            await self._runtime.remove(container)
        return proof

    async def _keep_log(self, container: ContainerSeen) -> int:
        """Its size in bytes. A log that can't be kept is lost, with a word: what the session holds must not wait."""
        try:
            async with asyncio.timeout(_KEEP_LOG_S):
                return await self._logs.keep(
                    container.session_id,
                    container.kernel_id,
                    container.attempt,
                    self._runtime.logs(container, follow=False, stamps=True),
                    stamped=True,
                )
        except Exception as error:
            words = f"{type(error).__name__}: {error}"[:200]
            _log.error("the log of a container is lost", session=container.session_id, error=words)
            return 0

    async def _last_lines(self, container: ContainerSeen) -> str:
        """Of the log that was kept."""
        kept = self._logs.find(container.session_id, container.kernel_id, container.attempt)
        if kept is None:
            return ""
        end = b""
        async for piece in kept.read(tail=LINES):
            end = (end + piece)[-READ_BYTES:]
        return last_lines(end, await self._runtime.given(container))

    async def _running(self, kernel_id: str, attempt: int) -> ContainerSeen | None:
        found = await self._of(kernel_id, below=attempt + 1)
        return next((one for one in found if (one.attempt, one.state) == (attempt, "running")), None)

    async def _of(self, kernel_id: str, *, below: int) -> list[ContainerSeen]:
        found = await self._runtime.containers()
        return [one for one in found if one.kernel_id == kernel_id and one.attempt < below]

    def _bury(self, order: Destroy) -> None:
        for forgotten in self._proofs.bury(order.kernel_id, order.attempt):
            self._locks.pop(forgotten, None)

    def _lock(self, kernel_id: str) -> asyncio.Lock:
        return self._locks.setdefault(kernel_id, asyncio.Lock())


def _seen(spec: KernelSpec, container_id: str) -> ContainerSeen:
    devices = sorted(spec.devices)
    return ContainerSeen(spec.session_id, spec.kernel_id, spec.attempt, container_id, "running", devices=devices)


async def _once_it_answers(step: Callable[[], Awaitable[_T]]) -> _T:
    """The step, repeated while the runtime is away. CreateRefused when that takes too long: another node may do it."""
    deadline = time.monotonic() + _AWAY_S
    while True:
        try:
            return await step()
        except RuntimeAway as error:
            if time.monotonic() > deadline:
                raise CreateRefused(
                    f"this node's container engine does not answer for {_AWAY_S:g} s: {error}"
                ) from None
        await asyncio.sleep(_ASKED_AGAIN_S)


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
    return without(words, given)


def _has_failed(container: ContainerSeen) -> bool:
    """By itself, before anybody stopped it."""
    return container.state == "exited" and container.exit_code != 0


async def _tell_nobody(session_id: str, change: HealthChange) -> None: ...


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
