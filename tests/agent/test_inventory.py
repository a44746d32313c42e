"""A node's devices together: what is refused, what changes, and drivers that fail or hang."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from agent_worker.accelerators.simulated import Simulated, simulated_devices
from agent_worker.inventory import Inventory
from agent_worker.runtimes.contract import CreateRefused
from moorage.contracts.accelerators import Accelerator, DeviceMeasure, Reservation
from moorage.domain.node import Device


class Odd(Accelerator):
    """Somebody's first try."""

    def __init__(self, *devices: Device) -> None:
        self.devices = list(devices)
        self.faults: dict[str, str] = {}
        self.broken: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = 0

    def fingerprint(self) -> list[Device]:
        self._answer()
        return self.devices

    def health(self) -> Mapping[str, str]:
        self.asked += 1
        self._answer()
        return self.faults

    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        return Reservation({f"ODD_{device_id}": str(amount) for device_id, amount in amounts.items()})

    def measure(self) -> list[DeviceMeasure]:
        self._answer()
        return [DeviceMeasure(device.device_id) for device in self.devices]

    def _answer(self) -> None:
        self.gate.wait()
        if self.broken is not None:
            raise self.broken


@pytest.fixture
def odd() -> Iterator[Odd]:
    made = Odd(Device("a", "odd.device"), Device("b", "odd.device"))
    yield made
    made.gate.set()


async def an_inventory(**accelerators: Accelerator) -> Inventory:
    inventory = Inventory(accelerators, answer_s=0.1)
    await inventory.take_stock()
    inventory.changed.clear()
    return inventory


def how(inventory: Inventory) -> dict[str, tuple[bool, str]]:
    return {device.device_id: (device.healthy, device.reason) for device in inventory.devices}


async def test_devices_of_several_accelerators_are_reserved_together(odd: Odd, tmp_path: Path) -> None:
    simulated = Simulated(simulated_devices("cuda.device=2"), tmp_path / "none")
    inventory = await an_inventory(odd=odd, simulated=simulated)
    assert inventory.reserve({"b": 1, "cuda.device-1": 1}).environment == {
        "ODD_b": "1", "MOORAGE_DEVICES": "cuda.device-1", "CUDA_VISIBLE_DEVICES": "cuda.device-1",
    }  # fmt: skip
    assert inventory.reserve({}) == Reservation()


@pytest.mark.parametrize(
    ("amounts", "words"),
    [({"c": 1}, "this node has no device c; it has a, b"), ({"a": 2}, "asked 2 of device a, it has 1"),
     ({"b": 1}, "device b is unhealthy: worn out")],
)  # fmt: skip
async def test_what_cannot_be_given_is_refused_in_words(amounts: dict[str, int], words: str, odd: Odd) -> None:
    odd.faults["b"] = "worn out"
    inventory = await an_inventory(odd=odd)
    with pytest.raises(CreateRefused, match=words):
        inventory.reserve(amounts)


async def test_a_node_without_accelerators_has_no_device() -> None:
    inventory = Inventory()
    await inventory.take_stock()
    with pytest.raises(CreateRefused, match="no device gpu0; it has none"):
        inventory.reserve({"gpu0": 1})


async def test_a_fault_changes_the_device_and_so_does_its_end(odd: Odd) -> None:
    inventory = await an_inventory(odd=odd)
    odd.faults["a"] = "worn out"
    await inventory.look()
    assert how(inventory) == {"a": (False, "worn out"), "b": (True, "")}
    assert inventory.changed.is_set()
    inventory.changed.clear()
    await inventory.look()
    assert not inventory.changed.is_set(), "nothing is new"
    odd.faults.clear()
    await inventory.look()
    assert how(inventory) == {"a": (True, ""), "b": (True, "")}
    assert inventory.changed.is_set()


@pytest.mark.parametrize(
    ("said", "shown"),
    [("", "no reason was given"), ("a\0b\n  c", "a b c"), ("x" * 999, "x" * 300)], ids=["empty", "odd", "long"],
)  # fmt: skip
async def test_a_reason_can_always_be_shown(said: str, shown: str, odd: Odd) -> None:
    inventory = await an_inventory(odd=odd)
    odd.faults["a"] = said
    await inventory.look()
    assert how(inventory)["a"] == (False, shown)


async def test_a_driver_that_fails_makes_its_devices_unhealthy_and_no_others(odd: Odd, tmp_path: Path) -> None:
    simulated = Simulated(simulated_devices("cuda.device=1"), tmp_path / "none")
    inventory = await an_inventory(odd=odd, simulated=simulated)
    odd.broken = OSError("no such ioctl")
    await inventory.look()
    assert {device_id for device_id, (healthy, _) in how(inventory).items() if not healthy} == {"a", "b"}
    assert "no such ioctl" in how(inventory)["a"][1]
    assert [one.device_id for one in await inventory.measure()] == ["cuda.device-0"]


async def test_a_driver_that_hangs_is_asked_once_and_heals_when_it_answers(odd: Odd) -> None:
    inventory = await an_inventory(odd=odd)
    odd.asked = 0
    odd.gate.clear()
    await inventory.look()
    await inventory.look()
    assert how(inventory)["a"] == (False, "odd has not answered for 0.1 s")
    assert odd.asked == 1
    odd.gate.set()
    await inventory.look()
    assert how(inventory)["a"] == (True, "")


async def test_a_driver_that_fails_at_the_start_offers_nothing(odd: Odd, tmp_path: Path) -> None:
    odd.broken = RuntimeError("no")
    inventory = await an_inventory(odd=odd, simulated=Simulated(simulated_devices("x.device=1"), tmp_path / "none"))
    assert list(how(inventory)) == ["x.device-0"]


async def test_an_accelerator_without_devices_is_not_asked_again() -> None:
    idle = Odd()
    inventory = await an_inventory(idle=idle)
    await inventory.look()
    assert (idle.asked, await inventory.measure()) == (0, [])


async def test_a_device_that_would_confuse_the_ledger_is_left_out() -> None:
    first = Odd(Device("a", "odd.device"), Device("b", "cpu"), Device("c", "odd.device", 0))
    inventory = await an_inventory(first=first, second=Odd(Device("a", "even.device"), Device("d", "even.device")))
    assert [(device.device_id, device.slot) for device in inventory.devices] == [
        ("a", "odd.device"), ("d", "even.device"),
    ]  # fmt: skip
