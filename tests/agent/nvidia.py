"""NVIDIA's library as it answers on a node of eight GPUs, on one with MIG slices, and for a plain card."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
from pynvml import NVMLError

GIB = 1024**3


@dataclass
class Slice:
    uuid: str
    name: str
    memory: int
    used: int = 0


@dataclass
class Card:
    uuid: str
    bus: str
    name: str = "NVIDIA H100 80GB HBM3"
    memory: int = 80 * GIB
    used: int = 0
    busy: int = 0  # per cent
    ecc: int | None = 0  # None: a card without ECC
    events: int = pynvml.nvmlEventTypeXidCriticalError | pynvml.nvmlEventTypeDoubleBitEccError
    slices: list[Slice] | None = None  # None: MIG is off
    processes: list[tuple[int, int]] = field(default_factory=list)
    lost: bool = False


class RecordedNvml:
    """Handles are the cards and slices themselves."""

    def __init__(self, *cards: Card, missing: bool = False) -> None:
        self.cards = list(cards)
        self.missing = missing
        self.waiting: deque[tuple[Card, int]] = deque()
        self.watched: list[str] = []

    def nvmlInit(self) -> None:
        if self.missing:
            raise NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        return self._there(self.cards[index])

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return str(handle.uuid)

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return str(handle.name)

    def nvmlDeviceGetPciInfo(self, handle: Any) -> Any:
        return SimpleNamespace(busId=handle.bus)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        if isinstance(handle, Card):
            self._there(handle)
        return SimpleNamespace(total=handle.memory, used=handle.used, free=handle.memory - handle.used)

    def nvmlDeviceGetMigMode(self, device: Any) -> Any:
        if "H100" not in device.name and device.slices is None:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return [int(device.slices is not None)] * 2

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Any) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int) -> Any:
        if index >= len(device.slices):
            raise NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return device.slices[index]

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        if isinstance(handle, Slice):
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=self._there(handle).busy, memory=0)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return 41

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return 72_500

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, errorType: int, counterType: int) -> int:
        assert (errorType, counterType) == (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
        if handle.ecc is None:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(self._there(handle).ecc or 0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in getattr(handle, "processes", [])]

    def nvmlDeviceGetSupportedEventTypes(self, handle: Any) -> int:
        return int(handle.events)

    def nvmlEventSetCreate(self) -> Any:
        return self.watched

    def nvmlDeviceRegisterEvents(self, handle: Any, eventTypes: int, eventSet: Any) -> None:
        eventSet.append(handle.uuid)

    def nvmlEventSetWait_v2(self, eventSet: Any, timeoutms: int) -> Any:
        assert timeoutms == 0, "a look never waits"
        if not self.waiting:
            raise NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        card, xid = self.waiting.popleft()
        return SimpleNamespace(device=card, eventType=pynvml.nvmlEventTypeXidCriticalError, eventData=xid)

    def _there(self, card: Card) -> Card:
        if card.lost:
            raise NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return card


def eight_gpus() -> RecordedNvml:
    """Four at each of two processors."""
    return RecordedNvml(*(Card(f"GPU-{number}", f"00000000:{0x1A + number:02X}:00.0") for number in range(8)))


def a_mig_node() -> RecordedNvml:
    """One GPU cut into three, one that MIG is on for but that is not cut, one whole."""
    name = "NVIDIA H100 80GB HBM3"
    slices = [
        Slice("MIG-a", f"{name} MIG 3g.40gb", 40 * GIB, used=GIB),
        Slice("MIG-b", f"{name} MIG 1g.10gb", 10 * GIB),
        Slice("MIG-c", f"{name} MIG 1g.10gb+me", 10 * GIB),
    ]
    cut, bare = (
        Card("GPU-0", "00000000:1A:00.0", slices=slices),
        Card("GPU-1", "00000000:1B:00.0", slices=[]),
    )
    return RecordedNvml(cut, bare, Card("GPU-2", "00000000:1C:00.0"))


def sysfs(folder: Path, nvml: RecordedNvml) -> Path:
    """Half of the cards on each NUMA node, as the kernel shows it."""
    for number, card in enumerate(nvml.cards):
        device = folder / "bus/pci/devices" / card.bus.lower()[4:]
        device.mkdir(parents=True)
        (device / "numa_node").write_text(f"{number * 2 // len(nvml.cards)}\n")
    return folder
