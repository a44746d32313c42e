"""Each session that asks `fuse.device` gets /dev/fuse; four at a time. No hardware is needed to try it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moorage.contracts.accelerators import Accelerator, DeviceMeasure, Reservation
from moorage.domain.node import Device
from moorage.settings import Settings

_NODE = Path("/dev/fuse")
_AT_A_TIME = 4


class Fuse(Accelerator):
    def __init__(self, settings: Settings) -> None:
        """The agent's settings are there for whoever needs them."""

    def fingerprint(self) -> list[Device]:
        return [Device(f"fuse-{number}", "fuse.device", model="FUSE") for number in range(_AT_A_TIME)]

    def health(self) -> Mapping[str, str]:
        if _NODE.exists():
            return {}
        return {f"fuse-{number}": f"there is no {_NODE}; load the module fuse" for number in range(_AT_A_TIME)}

    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        return Reservation(nodes=[str(_NODE)]) if amounts else Reservation()

    def measure(self) -> list[DeviceMeasure]:
        return [DeviceMeasure(f"fuse-{number}") for number in range(_AT_A_TIME)]
