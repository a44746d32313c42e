"""What a runtime does for the agent. Docker and the simulated one keep the same promises, by the same tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from agent_worker.images.contract import ImageStore
from agent_worker.metrics.reading import Readings
from moorage.contracts.accelerators import Reservation
from moorage.domain.node import ContainerSeen
from moorage.domain.session import KernelExit, KernelSpec

OUTPUT_CAP = 1024 * 1024


class RuntimeRefusal(Exception):
    """The runtime's own words."""


class ImageMissing(RuntimeRefusal):
    """The image is not on the node."""


class PullFailed(RuntimeRefusal):
    """The image can't be had."""


class CreateRefused(RuntimeRefusal):
    """This container can't be made or started here."""


@dataclass(frozen=True, slots=True)
class Exited:
    session_id: str
    exit: KernelExit


@dataclass(frozen=True, slots=True)
class Started:
    """`exit` is set if the container had ended before this was answered."""

    container_id: str
    exit: KernelExit | None = None


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: str
    stderr: str


class Runtime(ABC):
    """Containers on this node that carry this agent's label; no others are seen or touched."""

    store: ImageStore

    @abstractmethod
    async def capacity(self) -> dict[str, int]:
        """What the node could offer, in base units."""

    @abstractmethod
    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        """The container of (kernel, attempt) exists, has what is reserved, and was started; an existing one is adopted.

        ImageMissing, or CreateRefused with no container left.
        """

    @abstractmethod
    async def stop(self, container: ContainerSeen, grace_s: float) -> KernelExit:
        """The container runs no more: asked first, killed after the grace period. Returns how it ended."""

    @abstractmethod
    async def remove(self, container: ContainerSeen) -> None:
        """The container is gone. It may be gone already."""

    @abstractmethod
    async def containers(self) -> list[ContainerSeen]:
        """All of ours, running or not."""

    @abstractmethod
    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        """Running ones whose session starts on another node when this one is lost."""

    @abstractmethod
    def logs(self, container: ContainerSeen, *, follow: bool, tail: int | None = None) -> AsyncIterator[bytes]:
        """What it wrote, or the last `tail` lines of it; with `follow` until it ends. Nothing if it is gone."""

    @abstractmethod
    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        """Runs a command in it; each output is cut at OUTPUT_CAP bytes. TimeoutError when it takes longer.

        A command that was given up goes on until the container ends: Docker has no way to end it. CreateRefused if it
        can't be started.
        """

    @abstractmethod
    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        """The node, and each of the containers that still runs. Milliseconds for a hundred of them."""

    @abstractmethod
    def exits(self) -> AsyncIterator[Exited]:
        """Each end of a container, for ever. What ends while the runtime is away is found by comparing."""

    async def tend(self) -> None:
        """Upkeep beside the work, until cancelled. A runtime that needs none waits."""
        await asyncio.Event().wait()

    @abstractmethod
    async def close(self) -> None: ...
