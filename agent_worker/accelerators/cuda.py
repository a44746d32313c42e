"""NVIDIA GPUs by their UUIDs: whole ones, MIG slices of them, or shares."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
from pynvml import NVMLError

from agent_worker.accelerators.nvml import Nvml, answer
from moorage import log
from moorage.contracts.accelerators import Accelerator, DeviceMeasure, DeviceProcess, EngineRequest, Reservation
from moorage.domain.node import Device
from moorage.domain.resources import SHARES_OF_A_DEVICE
from moorage.settings import Settings

# Faults of a program, not of the card. Source: NVIDIA, XID errors; the device plug-in for Kubernetes skips the same.
_XIDS_OF_PROGRAMS = frozenset({13, 31, 43, 45, 68, 109})
_NO_DRIVER = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
_EVENTS_AT_ONCE = 64
_MIG_PROFILE = re.compile(r"MIG (\S+)")
_CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
_HOOK = "nvidia-container-runtime-hook"

_log = log.get("accelerators")


@dataclass(frozen=True, slots=True)
class _Gpu:
    """An offered device with its handle; `card` is the handle of the whole GPU that it is or is a slice of."""

    device: Device
    handle: Any
    card: Any
    card_uuid: str


class Cuda(Accelerator):
    def __init__(self, nvml: Nvml, *, shares: bool, cdi: bool, sysfs: Path = Path("/sys")) -> None:
        """Whole GPUs are offered as `cuda.device`, or as `cuda.shares` of each; MIG slices always one by one."""
        self._nvml = nvml
        self._shares = shares
        self._cdi = cdi
        self._sysfs = sysfs
        self._gpus: dict[str, _Gpu] = {}
        self._events: Any = None
        self._xids: dict[str, int] = {}  # UUID of a card → the last that is the card's own fault

    def fingerprint(self) -> list[Device]:
        try:
            self._nvml.nvmlInit()
        except NVMLError as error:
            say = _log.info if error.value in _NO_DRIVER else _log.warning
            say("no NVIDIA GPUs are offered", said=str(error))
            return []
        self._events = answer(self._nvml.nvmlEventSetCreate)
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                self._add(self._nvml.nvmlDeviceGetHandleByIndex(index))
            except NVMLError as error:
                _log.error("GPU not offered", index=index, said=str(error))
        return [gpu.device for gpu in self._gpus.values()]

    def _add(self, card: Any) -> None:
        self._gpus |= {gpu.device.device_id: gpu for gpu in self._on(card)}
        self._listen(card)

    def _on(self, card: Any) -> list[_Gpu]:
        """The card itself, or its slices if it is cut into some."""
        uuid, numa = self._nvml.nvmlDeviceGetUUID(card), self._numa(card)
        if not self._is_cut(card):
            slot, total = ("cuda.shares", SHARES_OF_A_DEVICE) if self._shares else ("cuda.device", 1)
            return [_Gpu(self._device(card, slot, total, numa), card, card, uuid)]
        found = (
            answer(self._nvml.nvmlDeviceGetMigDeviceHandleByIndex, card, index)
            for index in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(card))
        )
        slices = [one for one in found if one is not None]
        return [_Gpu(self._device(one, self._mig_slot(one), 1, numa), one, card, uuid) for one in slices]

    def _device(self, handle: Any, slot: str, total: int, numa: int | None) -> Device:
        uuid, model = self._nvml.nvmlDeviceGetUUID(handle), self._nvml.nvmlDeviceGetName(handle)
        memory = answer(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        return Device(uuid, slot, total, numa=numa, model=model, memory=int(memory.total) if memory else 0)

    def _is_cut(self, card: Any) -> bool:
        mode = answer(self._nvml.nvmlDeviceGetMigMode, card)
        return mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE

    def _mig_slot(self, handle: Any) -> str:
        """`cuda.1g.10gb-mig`; the profile stands in the name, `NVIDIA H100 MIG 1g.10gb`."""
        name = self._nvml.nvmlDeviceGetName(handle)
        found = _MIG_PROFILE.search(name)
        return f"cuda.{found[1].replace('+', '-') if found else 'unknown'}-mig"

    def _numa(self, card: Any) -> int | None:
        """None where the kernel has -1: the firmware does not say. NVML writes 8 digits of the PCI domain, it has 4."""
        bus: str | bytes = self._nvml.nvmlDeviceGetPciInfo(card).busId
        address = (bus.decode() if isinstance(bus, bytes) else bus).lower()[-12:]
        try:
            node = int((self._sysfs / "bus/pci/devices" / address / "numa_node").read_text())
        except (OSError, ValueError):
            return None
        return node if node >= 0 else None

    def _listen(self, card: Any) -> None:
        """From here on the driver keeps the card's XIDs until they are asked for."""
        supported = answer(self._nvml.nvmlDeviceGetSupportedEventTypes, card) or 0
        if self._events is not None and supported & pynvml.nvmlEventTypeXidCriticalError:
            answer(self._nvml.nvmlDeviceRegisterEvents, card, pynvml.nvmlEventTypeXidCriticalError, self._events)

    def health(self) -> Mapping[str, str]:
        self._note_events()
        cards = {gpu.card_uuid: gpu.card for gpu in self._gpus.values()}
        sick = {uuid: reason for uuid, card in cards.items() if (reason := self._why_unhealthy(uuid, card))}
        return {device_id: sick[gpu.card_uuid] for device_id, gpu in self._gpus.items() if gpu.card_uuid in sick}

    def _note_events(self) -> None:
        """Each stays until the agent starts again: NVML has no event for a repaired card."""
        try:
            for _ in range(_EVENTS_AT_ONCE if self._events is not None else 0):
                event = self._nvml.nvmlEventSetWait_v2(self._events, 0)
                xid = int(event.eventData)
                if xid not in _XIDS_OF_PROGRAMS:
                    self._xids[self._nvml.nvmlDeviceGetUUID(event.device)] = xid
        except NVMLError:
            return  # none is left; a card that is lost is found by asking it

    def _why_unhealthy(self, uuid: str, card: Any) -> str:
        if uuid in self._xids:
            return f"the driver reported XID {self._xids[uuid]}; repair it, then restart the agent"
        try:
            answer(self._nvml.nvmlDeviceGetMemoryInfo, card)
            errors = self._ecc_errors(card)
        except NVMLError as error:
            return f"it does not answer: {error}"
        return f"{errors} uncorrected ECC errors since the driver was loaded; reset it" if errors else ""

    def _ecc_errors(self, card: Any) -> int | None:
        return answer(
            self._nvml.nvmlDeviceGetTotalEccErrors,
            card,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )

    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        """A container without a GPU is told `void`: images of CUDA ask for all, and a host's default may obey."""
        if not amounts:
            return Reservation({"NVIDIA_VISIBLE_DEVICES": "void"} if self._gpus else {})
        ids = list(amounts)
        environment = {"NVIDIA_VISIBLE_DEVICES": "void" if self._cdi else ",".join(ids)}
        devices = [self._gpus[device_id].device for device_id in ids]
        if any(device.total == SHARES_OF_A_DEVICE for device in devices):
            caps = [device.memory * amounts[device.device_id] // device.total for device in devices]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(ids)
            environment["MOORAGE_GPU_MEMORY_BYTES"] = ",".join(map(str, caps))
        if self._cdi:
            return Reservation(environment, requests=[EngineRequest("cdi", [f"nvidia.com/gpu={one}" for one in ids])])
        return Reservation(environment, requests=[EngineRequest("nvidia", ids, ["gpu", "compute", "utility"])])

    def measure(self) -> list[DeviceMeasure]:
        return [self._measure(gpu) for gpu in self._gpus.values()]

    def _measure(self, gpu: _Gpu) -> DeviceMeasure:
        """Of a slice: its own memory and processes; heat, power and errors are the card's."""
        device_id = gpu.device.device_id
        try:
            memory = answer(self._nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
            rates = answer(self._nvml.nvmlDeviceGetUtilizationRates, gpu.handle)
            power = answer(self._nvml.nvmlDeviceGetPowerUsage, gpu.card)
            running = answer(self._nvml.nvmlDeviceGetComputeRunningProcesses, gpu.handle) or []
            return DeviceMeasure(
                device_id,
                utilisation=rates.gpu / 100 if rates else None,
                memory_used=int(memory.used) if memory else None,
                memory_total=int(memory.total) if memory else None,
                temperature_c=answer(self._nvml.nvmlDeviceGetTemperature, gpu.card, pynvml.NVML_TEMPERATURE_GPU),
                power_w=power / 1000 if power is not None else None,
                uncorrected_errors=self._ecc_errors(gpu.card),
                processes=[DeviceProcess(int(one.pid), one.usedGpuMemory) for one in running],
            )
        except NVMLError:
            return DeviceMeasure(device_id)


def from_settings(settings: Settings) -> Cuda | None:
    """None where the node is not to offer its GPUs, or pretends its containers."""
    if settings.agent_cuda_offer == "none" or settings.agent_runtime != "docker":
        return None
    cdi = settings.agent_cuda_attach == "cdi" or (settings.agent_cuda_attach == "auto" and _has_only_cdi())
    return Cuda(pynvml, shares=settings.agent_cuda_offer == "shares", cdi=cdi)


def _has_only_cdi() -> bool:
    """Docker attaches GPUs by NVIDIA's hook where that is installed; else by a CDI specification, if one is there."""
    specified = any(path for folder in _CDI_FOLDERS if folder.is_dir() for path in folder.glob("*nvidia*"))
    return specified and shutil.which(_HOOK) is None
