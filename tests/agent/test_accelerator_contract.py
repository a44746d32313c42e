"""What every accelerator promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent_worker.accelerators.cuda import Cuda
from agent_worker.accelerators.simulated import Simulated, simulated_devices
from moorage.contracts.accelerators import Accelerator, Reservation
from tests.agent.nvidia import RecordedNvml, a_mig_node, eight_gpus, sysfs


@dataclass
class Specimen:
    """An accelerator, made again as after a restart of the agent, and ways to break and mend its first device."""

    make: Callable[[], Accelerator]
    break_first: Callable[[], None]
    mend_first: Callable[[], None]


def _simulated(folder: Path) -> Specimen:
    happenings = folder / "simulated-devices.json"
    devices = simulated_devices("cuda.device=4:model=H100:memory=80g,cuda.shares=2:memory=16g")
    fault = json.dumps({"cuda.device-0": {"fault": "fell off the bus"}})
    return Specimen(
        lambda: Simulated(devices, happenings), lambda: _write(happenings, fault), lambda: _write(happenings, "{}")
    )


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _cuda(folder: Path, nvml: RecordedNvml, *, shares: bool = False, cdi: bool = False) -> Specimen:
    tree = sysfs(folder, nvml)
    return Specimen(
        lambda: Cuda(nvml, shares=shares, cdi=cdi, sysfs=tree),
        lambda: setattr(nvml.cards[0], "ecc", 3),
        lambda: setattr(nvml.cards[0], "ecc", 0),
    )


SPECIMENS: dict[str, Callable[[Path], Specimen]] = {
    "simulated": _simulated,
    "eight-gpus": lambda folder: _cuda(folder, eight_gpus()),
    "shares": lambda folder: _cuda(folder, eight_gpus(), shares=True),
    "cdi": lambda folder: _cuda(folder, eight_gpus(), cdi=True),
    "mig": lambda folder: _cuda(folder, a_mig_node()),
}


@pytest.fixture(params=SPECIMENS)
def specimen(request: pytest.FixtureRequest, tmp_path: Path) -> Specimen:
    return SPECIMENS[request.param](tmp_path)


def test_devices_have_ids_of_their_own_that_outlive_a_restart(specimen: Specimen) -> None:
    devices = specimen.make().fingerprint()
    assert devices
    assert len({device.device_id for device in devices}) == len(devices)
    assert specimen.make().fingerprint() == devices


def test_devices_are_described(specimen: Specimen) -> None:
    for device in specimen.make().fingerprint():
        assert device.total == (100 if device.slot.endswith(".shares") else 1)
        assert device.numa in (0, 1)
        assert device.model
        assert device.memory > 0


def test_a_well_device_is_not_mentioned(specimen: Specimen) -> None:
    accelerator = specimen.make()
    accelerator.fingerprint()
    assert accelerator.health() == {}


def test_a_fault_is_told_with_a_reason_and_goes_with_its_cause(specimen: Specimen) -> None:
    accelerator = specimen.make()
    first = accelerator.fingerprint()[0].device_id
    specimen.break_first()
    faults = accelerator.health()
    assert faults[first]
    assert set(faults) < {device.device_id for device in accelerator.fingerprint()}
    specimen.mend_first()
    assert accelerator.health() == {}


def test_a_fault_that_lasts_is_seen_after_a_restart(specimen: Specimen) -> None:
    specimen.break_first()
    accelerator = specimen.make()
    first = accelerator.fingerprint()[0].device_id
    assert first in accelerator.health()


def test_a_reservation_names_the_devices_and_no_other(specimen: Specimen) -> None:
    accelerator = specimen.make()
    devices = accelerator.fingerprint()
    reserved = accelerator.reserve({devices[0].device_id: devices[0].total})
    assert devices[0].device_id in _words(reserved)
    assert not any(device.device_id in _words(reserved) for device in devices[1:])


def test_the_same_is_reserved_again(specimen: Specimen) -> None:
    accelerator = specimen.make()
    amounts = {device.device_id: device.total for device in accelerator.fingerprint()[:2]}
    assert accelerator.reserve(amounts) == accelerator.reserve(amounts)


def test_a_container_without_its_devices_gets_none(specimen: Specimen) -> None:
    accelerator = specimen.make()
    ids = [device.device_id for device in accelerator.fingerprint()]
    reserved = accelerator.reserve({})
    assert not any(device_id in _words(reserved) for device_id in ids)
    assert (reserved.mounts, reserved.nodes, reserved.requests) == ([], [], [])


def test_each_device_is_measured(specimen: Specimen) -> None:
    accelerator = specimen.make()
    devices = {device.device_id: device for device in accelerator.fingerprint()}
    measures = {measure.device_id: measure for measure in accelerator.measure()}
    assert set(measures) == set(devices)
    for device_id, measure in measures.items():
        assert measure.memory_total == devices[device_id].memory
        assert measure.utilisation is None or 0 <= measure.utilisation <= 1


def _words(reserved: Reservation) -> list[str]:
    """All that a reservation says, in parts."""
    said = [part for value in reserved.environment.values() for part in value.split(",")]
    ids = [one.rpartition("=")[2] for request in reserved.requests for one in request.ids]
    return [*said, *ids, *reserved.nodes, *(mount.source for mount in reserved.mounts)]
