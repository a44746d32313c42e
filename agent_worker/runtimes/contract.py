"""What a runtime does for the agent. Docker and the simulated one keep the same promises, by the same tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from agent_worker.metrics.reading import Readings
from agent_worker.runtimes.process import STDERR, STDOUT, Order, Process
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


class FileRefused(RuntimeRefusal):
    """This can't be read or written there. `missing` if it is not there at all."""

    def __init__(self, words: str, *, missing: bool = False) -> None:
        super().__init__(words)
        self.missing = missing


class PortClosed(RuntimeRefusal):
    """Nothing answers on this port of the container."""


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


@dataclass(frozen=True, slots=True)
class FileFound:
    """`size` in bytes, `mode` the permission bits, `modified` in seconds since 1970."""

    name: str
    size: int
    mode: int
    modified: float
    is_folder: bool


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

        ImageMissing, or CreateRefused with no container left.
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
    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        """Running ones whose session starts on another node when this one is lost."""

    @abstractmethod
    def logs(
        self, container: ContainerSeen, *, follow: bool, tail: int | None = None, since: str = "", stamps: bool = False
    ) -> AsyncIterator[bytes]:
        """What it wrote, or the last `tail` lines of it; with `follow` until it ends. Nothing if it is gone.

        `since` leaves out what was written before that stamp (moorage.domain.log_lines). With `stamps` each line begins
        with its own. Nothing is read ahead of whoever reads this.
        """

    @abstractmethod
    async def attach(self, container: ContainerSeen, order: Order) -> Process:
        """Begins a command in it. CreateRefused if it can't be started."""

    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        """Runs a command in it; each output is cut at OUTPUT_CAP bytes. TimeoutError when it takes longer.

        A command that was given up is hung up, as Process says. CreateRefused if it can't be started.
        """
        outputs = {STDOUT: bytearray(), STDERR: bytearray()}
        async with asyncio.timeout(timeout_s), await self.attach(container, Order(command)) as process:
            while (found := await process.read()) is not None:
                output, data = found
                outputs[output] += data[: OUTPUT_CAP - len(outputs[output])]
            code = await process.exit_code()
        out, err = (bytes(one).decode(errors="replace") for one in outputs.values())
        return ExecResult(code, out, err)

    @abstractmethod
    async def find_file(self, container: ContainerSeen, path: str) -> FileFound:
        """FileRefused if there is none."""

    @abstractmethod
    def download(self, container: ContainerSeen, path: str) -> AsyncIterator[bytes]:
        """A file, or a folder with all in it, as a tar whose names begin with its own. FileRefused if there is none."""

    @abstractmethod
    async def upload(self, container: ContainerSeen, folder: str, archive: AsyncIterator[bytes]) -> None:
        """Unpacks a tar in a folder, as the container's user's files.

        FileRefused, with the words, for what agent_worker.runtimes.archive doesn't let pass, and for a folder that is
        none; what came before that entry may be there by then.
        """

    @abstractmethod
    async def connect(self, container: ContainerSeen, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection to a port of the container itself. PortClosed if nothing listens there."""

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
