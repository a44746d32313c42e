"""What a runtime does for the agent. Docker and the simulated one keep the same promises, by the same tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from agent_worker.metrics.reading import Readings
from moorage.contracts.accelerators import Reservation
from moorage.domain.health import HealthCheck
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


class RuntimeAway(OSError):
    """The runtime does not answer; what was asked of it may have been done."""


class GoesOn(TimeoutError):
    """A command took too long and could not be ended. `runs` tells whether it still goes on."""

    def __init__(self, runs: Callable[[], Awaitable[bool]]) -> None:
        super().__init__("it took too long and could not be ended")
        self.runs = runs


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
class Checked:
    """A running container that is to be checked, and how old it is."""

    container: ContainerSeen
    check: HealthCheck
    age_s: float


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: str
    stderr: str


class Runtime(ABC):
    """Containers on this node that carry this agent's label; no others are seen or touched."""

    @abstractmethod
    async def capacity(self) -> dict[str, int]:
        """What the node could offer, in base units."""

    @abstractmethod
    async def images(self) -> list[str]:
        """The images on the node, by name and tag, sorted."""

    @abstractmethod
    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        """The container of (kernel, attempt) exists, has what is reserved, and was started; an existing one is adopted.

        One that has ended is not started again. ImageMissing, or CreateRefused with no container of ours left.
        """

    @abstractmethod
    async def pull(self, image: str, progress: Callable[[str], None]) -> None:
        """The image is on the node. PullFailed with the runtime's words; not tried again here."""

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
    async def labelled(self, label: str) -> list[tuple[ContainerSeen, str]]:
        """Running ones that carry the label, with its value: what they were made with is known after a restart."""

    @abstractmethod
    async def write_file(self, container: ContainerSeen, path: str, text: str) -> None:
        """The running container has a file with this text, for all its users. Without text it is emptied, if there."""

    @abstractmethod
    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        """Running ones whose session starts on another node when this one is lost."""

    @abstractmethod
    def logs(self, container: ContainerSeen, *, follow: bool, tail: int | None = None) -> AsyncIterator[bytes]:
        """What it wrote, or the last `tail` lines of it; with `follow` until it ends. Nothing if it is gone."""

    @abstractmethod
    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        """Runs a command in it; each output is cut at OUTPUT_CAP bytes. TimeoutError when it takes longer.

        A command that was given up is killed with all that it started; GoesOn where the agent may not do that.
        CreateRefused if it can't be started.
        """

    @abstractmethod
    async def connects(self, container: ContainerSeen, port: int, timeout_s: float) -> bool:
        """Whether something in the container accepts connections at its port, if only at its loopback address."""

    @abstractmethod
    async def checked(self) -> list[Checked]:
        """The running containers that were made with a health check: what an agent that comes back goes on with."""

    @abstractmethod
    async def given(self, container: ContainerSeen) -> set[str]:
        """The values that it alone was given, in variables and files. Whoever quotes its words leaves them out."""

    @abstractmethod
    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        """The node, and each of the containers that still runs. Milliseconds for a hundred of them."""

    @abstractmethod
    async def written(self) -> list[tuple[ContainerSeen, int]]:
        """Bytes that each running one holds on a disk of its own. Costs a walk through their files."""

    @abstractmethod
    def exits(self) -> AsyncIterator[Exited]:
        """Each end of a container, for ever. What ends while the runtime is away is found by comparing."""

    async def prepare(self) -> list[str]:
        """Once, before the node offers itself. Returns what does not hold on it, in words for its administrator."""
        return []

    async def tend(self) -> None:
        """Upkeep beside the work, until cancelled. A runtime that needs none waits."""
        await asyncio.Event().wait()

    @abstractmethod
    async def close(self) -> None: ...
