"""What an accelerator does for the agent. Built-in ones and those of others keep the same promises, by the same tests.

A plug-in imports this, `moorage.domain.node.Device` and `moorage.settings.Settings`; docs/plugins.md has an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from moorage.domain.node import Device


@dataclass(frozen=True, slots=True)
class Mount:
    """A path of the host as the container sees it."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """Devices that the container engine attaches by a driver of its own, such as `nvidia` or `cdi`."""

    driver: str
    ids: list[str]
    capabilities: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a container needs for its devices, in nobody's words: the runtime translates it."""

    environment: dict[str, str] = field(default_factory=dict)
    mounts: list[Mount] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)  # paths below /dev
    requests: list[EngineRequest] = field(default_factory=list)


def together(parts: Iterable[Reservation]) -> Reservation:
    """One reservation for a container that has devices of several accelerators."""
    whole = Reservation()
    for part in parts:
        whole.environment.update(part.environment)
        whole.mounts.extend(part.mounts)
        whole.nodes.extend(part.nodes)
        whole.requests.extend(part.requests)
    return whole


@dataclass(frozen=True, slots=True)
class DeviceProcess:
    """A process that uses a device, by its id on the host."""

    pid: int
    memory: int | None = None  # bytes of the device's memory


@dataclass(frozen=True, slots=True)
class DeviceMeasure:
    """A device now. What it can't say is None."""

    device_id: str
    utilisation: float | None = None  # in [0, 1], over the driver's last moments
    memory_used: int | None = None  # bytes
    memory_total: int | None = None
    temperature_c: float | None = None
    power_w: float | None = None
    uncorrected_errors: int | None = None
    processes: list[DeviceProcess] = field(default_factory=list)


class Accelerator(ABC):
    """One kind of device on this node. Calls may block; the agent makes each in a thread, several at the same time."""

    @abstractmethod
    def fingerprint(self) -> list[Device]:
        """The devices that the node offers. Asked once, first of all. Their ids are the same after a restart."""

    @abstractmethod
    def health(self) -> Mapping[str, str]:
        """Device id → why it is unhealthy; those not named are well. Asked every two seconds."""

    @abstractmethod
    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        """What a container needs that has so much (of `Device.total`) of each; `{}` for one that has none of them.

        Pure: nothing is kept, and the same is asked again when a step is repeated. It wins over the user's environment.
        """

    @abstractmethod
    def measure(self) -> list[DeviceMeasure]:
        """Each device now."""
