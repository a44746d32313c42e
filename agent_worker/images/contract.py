"""What a runtime does about images. Docker and the simulated one keep the same promises, by the same tests."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Line = Mapping[str, Any]
"""One line of a pull as Docker says it: `id` of the layer, `status`, `progressDetail` with current and total."""


class ConnectionBroken(Exception):
    """The registry was not reached, or broke off: the same pull may work later. With the runtime's words."""


class NoRoom(Exception):
    """The node's disk is full; another node may take it."""


class InUse(Exception):
    """Containers have the image; the words say which."""


@dataclass(frozen=True, slots=True)
class Credential:
    """For the registry of an image."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image on the node. `names` with their tags, `digests` as repository@sha256:…; bytes."""

    image_id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    size: int


@dataclass(frozen=True, slots=True)
class Disk:
    """Where the images lie; bytes."""

    used: int
    total: int

    @property
    def percent(self) -> float:
        return 100 * self.used / self.total if self.total else 0.0


class ImageStore(ABC):
    """The images of the node, whoever put them there."""

    @abstractmethod
    async def index(self) -> list[StoredImage]: ...

    @abstractmethod
    async def find(self, image: str) -> StoredImage | None:
        """By name and tag or digest; never by id."""

    @abstractmethod
    async def of_container(self, container_id: str) -> StoredImage | None:
        """What a container runs; None if either is gone."""

    @abstractmethod
    async def in_use(self) -> dict[str, list[str]]:
        """Image id → names of all containers that have it, running or not, whosever they are."""

    @abstractmethod
    async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
        """The image is on the node. Tried once: ConnectionBroken, NoRoom, or PullFailed with the registry's words.

        Layers that were complete before it broke are not loaded again by the next try.
        """

    @abstractmethod
    async def remove(self, name: str) -> bool:
        """The name is gone, and its image if it has no other name. False if it was not there. InUse by a container."""

    @abstractmethod
    async def disk(self) -> Disk | None:
        """None where it can't be seen."""
