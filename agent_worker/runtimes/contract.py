"""What a runtime does for the agent. Docker and the simulated one keep the same promises, by the same tests."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from agent_worker.images.contract import ImageStore
from agent_worker.metrics.reading import Readings
from agent_worker.runtimes.process import STDERR, STDOUT, Order, Process
from moorage.contracts.accelerators import Reservation
from moorage.domain.health import HealthCheck
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import MEM, format_slot
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


class UpdateRefused(RuntimeRefusal):
    """The container can't have these limits; it has those that it had."""


class CommitRefused(RuntimeRefusal):
    """No image can be made of this container under this name."""


class RuntimeAway(OSError):
    """The runtime does not answer; what was asked of it may have been done."""


class GoesOn(TimeoutError):
    """A command took too long and could not be ended. `runs` tells whether it still goes on."""

    def __init__(self, runs: Callable[[], Awaitable[bool]]) -> None:
        super().__init__("it took too long and could not be ended")
        self.runs = runs


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
class Checked:
    """A running container that is to be checked, and how old it is."""

    container: ContainerSeen
    check: HealthCheck
    age_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    image_id: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ExecResult:
    exit_code: int
    stdout: str
    stderr: str


def check_use(used: int | None, slots: Mapping[str, int]) -> None:
    """Before a runtime takes memory away that is in use: the kernel would kill for it, or refuse without numbers."""
    asked = slots.get(MEM)
    if used is not None and asked is not None and used > asked:
        raise UpdateRefused(f"it uses {format_slot(MEM, used)} of memory, asked was {format_slot(MEM, asked)}")


def check_owner(image: str, owner: str | None, user: str) -> None:
    """`owner` is who committed what has the name now: None if nothing has it, empty if nobody did."""
    if owner is not None and (not owner or owner != user):
        whose = f"committed by {owner}" if owner else "which nobody here committed"
        raise CommitRefused(f"{image} is an image already, {whose}; take another name or tag")


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

    store: ImageStore

    @abstractmethod
    async def capacity(self) -> dict[str, int]:
        """What the node could offer, in base units."""

    @abstractmethod
    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        """The container of (kernel, attempt) exists, has what is reserved, and was started; an existing one is adopted.

        One that has ended is not started again. ImageMissing, or CreateRefused with no container of ours left.
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
    async def labelled(self, label: str) -> list[tuple[ContainerSeen, str]]:
        """Running ones that carry the label, with its value: what they were made with is known after a restart."""

    @abstractmethod
    async def write_file(self, container: ContainerSeen, path: str, text: str) -> None:
        """The running container has a file with this text, for all its users. Without text it is emptied, if there."""

    @abstractmethod
    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        """Running ones whose session starts on another node when this one is lost."""

    @abstractmethod
    async def update(self, container: ContainerSeen, slots: Mapping[str, int]) -> None:
        """The container, which goes on, has these limits of cores and memory. Or UpdateRefused, and nothing changed."""

    @abstractmethod
    async def commit(self, container: ContainerSeen, image: str) -> Committed:
        """The node has an image of what is in the container, which goes on; none of its variables, labels and files
        that it was given. A name that something else has is CommitRefused, but for an image of the same user."""

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

        A command that was given up is hung up, as Process says; GoesOn where the agent can't do that. CreateRefused if
        it can't be started.
        """
        outputs = {STDOUT: bytearray(), STDERR: bytearray()}
        process: Process | None = None
        try:
            async with asyncio.timeout(timeout_s), await self.attach(container, Order(command)) as process:
                while (found := await process.read()) is not None:
                    output, data = found
                    outputs[output] += data[: OUTPUT_CAP - len(outputs[output])]
                code = await process.exit_code()
        except TimeoutError:
            if process is not None and await process.runs():
                raise GoesOn(process.runs) from None
            raise
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

    async def connects(self, container: ContainerSeen, port: int, timeout_s: float) -> bool:
        """Whether something in the container accepts connections at its port, if only at its loopback address."""
        with suppress(RuntimeRefusal, TimeoutError):
            async with asyncio.timeout(timeout_s):
                _, writer = await self.connect(container, port)
            writer.close()
            return True
        return False

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
