"""A command that runs in a container, with its input and outputs, as both runtimes hand it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

STDOUT, STDERR = 1, 2
SIGNALS = ("HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2")


@dataclass(frozen=True, slots=True)
class Window:
    """The size of a terminal, in characters."""

    rows: int = 24
    cols: int = 80


@dataclass(frozen=True, slots=True)
class Order:
    """What is to run. With a window it gets a terminal, and its outputs are one."""

    command: list[str]
    window: Window | None = None
    env: dict[str, str] = field(default_factory=dict)


class Process(ABC):
    """Leaving its block hangs it up: it and all in its session are told with SIGHUP, and killed 3 s later."""

    @abstractmethod
    async def read(self) -> tuple[int, bytes] | None:
        """The next output (STDOUT or STDERR, 64 KiB at most), None when it has none any more. Nothing is read ahead."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """To its input; waits while it reads nothing. What has ended takes everything and does nothing with it."""

    @abstractmethod
    async def end_input(self) -> None: ...

    @abstractmethod
    async def resize(self, window: Window) -> None: ...

    @abstractmethod
    async def signal(self, name: str) -> bool:
        """To it and all it started, as far as that stayed in its session. False where the agent can't reach it."""

    @abstractmethod
    async def exit_code(self) -> int:
        """Once there is nothing more to read."""

    @abstractmethod
    async def runs(self) -> bool:
        """Whether it goes on, as it may after `close` where the agent can't reach it."""

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
