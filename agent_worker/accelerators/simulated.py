"""Devices that are pretended: gangs with GPUs on a laptop, and every fault of a device on demand.

MOORAGE_AGENT_SIMULATED_DEVICES says which: `cuda.device=8:model=H100:memory=80g:numa=2,cuda.shares=2`. What happens to
them stands in `simulated-devices.json` in the agent's data folder, which a test or a person may change while it runs:
`{"cuda.device-1": {"fault": "fell off the bus", "utilisation": 0.9, "memory_used": 1024}}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moorage import log
from moorage.contracts.accelerators import Accelerator, DeviceMeasure, Reservation
from moorage.domain.errors import InvalidRequest
from moorage.domain.node import Device
from moorage.domain.resources import CPU, MEM, SHARES_OF_A_DEVICE, is_shares, parse_size
from moorage.settings import Settings

FILE = "simulated-devices.json"
_MOST = 1024
_ALLOWED = "SLOT=COUNT[:model=NAME][:memory=SIZE][:numa=NODES], as cuda.device=4:memory=80g"

_log = log.get("accelerators")


class Simulated(Accelerator):
    def __init__(self, devices: list[Device], happenings: Path) -> None:
        """`happenings` need not exist."""
        self._devices = {device.device_id: device for device in devices}
        self._happenings = happenings

    def fingerprint(self) -> list[Device]:
        return list(self._devices.values())

    def health(self) -> Mapping[str, str]:
        found = {device_id: str(one["fault"]) for device_id, one in self._now().items() if one.get("fault")}
        return {device_id: reason for device_id, reason in found.items() if device_id in self._devices}

    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        if not amounts:
            return Reservation()
        devices = [self._devices[device_id] for device_id in amounts]
        environment = {"MOORAGE_DEVICES": ",".join(amounts)}
        if visible := [device.device_id for device in devices if device.slot.startswith("cuda.")]:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
        caps = [
            device.memory * amounts[device.device_id] // device.total for device in devices if is_shares(device.slot)
        ]
        if any(caps):
            environment["MOORAGE_GPU_MEMORY_BYTES"] = ",".join(map(str, caps))
        return Reservation(environment)

    def measure(self) -> list[DeviceMeasure]:
        now = self._now()
        return [
            DeviceMeasure(
                device.device_id,
                utilisation=float(now.get(device.device_id, {}).get("utilisation", 0.0)),
                memory_used=int(now.get(device.device_id, {}).get("memory_used", 0)),
                memory_total=device.memory or None,
            )
            for device in self._devices.values()
        ]

    def _now(self) -> dict[str, dict[str, Any]]:
        """A file that is being written, or was written wrongly, says nothing."""
        try:
            found = json.loads(self._happenings.read_text())
            return {str(device_id): dict(one) for device_id, one in dict(found).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            _log.warning("not readable, no device has a fault", file=str(self._happenings), error=str(error)[:200])
            return {}


def from_settings(settings: Settings) -> Simulated:
    devices = simulated_devices(settings.agent_simulated_devices)
    return Simulated(devices, settings.agent_data_dir / FILE)


def simulated_devices(text: str) -> list[Device]:
    """So many devices of each slot, in equal parts on two NUMA nodes unless `numa` says on how many."""
    return [device for part in text.split(",") if part.strip() for device in _devices(part.strip())]


def _devices(part: str) -> list[Device]:
    head, *options = part.split(":")
    slot, _, count = head.partition("=")
    if not count.isdecimal() or not 0 < int(count) <= _MOST or slot in ("", CPU, MEM):
        raise _malformed(part)
    asked = dict(option.partition("=")[::2] for option in options)
    numa = asked.get("numa", "2")
    if asked.keys() - {"model", "memory", "numa"} or not numa.isdecimal() or not int(numa):
        raise _malformed(part)
    return [
        Device(
            f"{slot}-{number}",
            slot,
            SHARES_OF_A_DEVICE if is_shares(slot) else 1,
            numa=number * int(numa) // int(count),
            model=asked.get("model", "simulated"),
            memory=parse_size(asked.get("memory", "0")),
        )
        for number in range(int(count))
    ]


def _malformed(part: str) -> InvalidRequest:
    return InvalidRequest(f"MOORAGE_AGENT_SIMULATED_DEVICES: {part[:80]!r} is not {_ALLOWED}")
