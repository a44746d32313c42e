"""The devices of this node: what there is, how each is, and what a container with some of them needs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from agent_worker.runtimes.contract import CreateRefused
from moorage import log
from moorage.contracts.accelerators import Accelerator, DeviceMeasure, Reservation, together
from moorage.domain.node import Device
from moorage.domain.resources import CPU, MEM
from moorage.domain.stats import DeviceReading

_T = TypeVar("_T")
# A look at eight GPUs takes some ten milliseconds; a job of hundreds wastes all of them until the fault is seen.
_LOOK_S = 2.0
# A driver that waits for sick hardware may never answer: then its devices count as unhealthy.
_ANSWER_S = 10.0
# Without persistence mode NVIDIA's driver wakes each card for the first question, seconds each.
_FIRST_ANSWER_S = 120.0
_LONGEST_REASON = 300

_log = log.get("accelerators")


class Inventory:
    """Nothing is kept of what was given out: the ledger is in the control plane."""

    def __init__(self, accelerators: Mapping[str, Accelerator] | None = None, *, answer_s: float = _ANSWER_S) -> None:
        self._drivers = [_Driver(name, one, answer_s) for name, one in (accelerators or {}).items()]
        self._of: dict[str, _Driver] = {}
        self._devices: dict[str, Device] = {}
        self.changed = asyncio.Event()  # set when a device's health is another; whoever reports it clears it

    @property
    def devices(self) -> list[Device]:
        """All of them, as they were at the last look."""
        return list(self._devices.values())

    async def take_stock(self) -> None:
        """What there is. Asked once; a card that is put in later is seen at the agent's next start."""
        for driver in self._drivers:
            for device in await driver.fingerprint():
                if device.device_id in self._of or device.total < 1 or device.slot in ("", CPU, MEM):
                    _log.error("device left out", accelerator=driver.name, device=device.device_id, slot=device.slot)
                    continue
                self._of[device.device_id] = driver
                self._devices[device.device_id] = device
        self._drivers = [driver for driver in self._drivers if self._of_driver(driver)]
        await self.look()

    async def look(self) -> None:
        """Each device's health now."""
        answers = await asyncio.gather(*(driver.health(self._of_driver(driver)) for driver in self._drivers))
        faults = {device_id: reason for answer in answers for device_id, reason in answer.items()}
        for device in self.devices:
            reason = _plain(faults[device.device_id]) if device.device_id in faults else ""
            if reason == device.reason:
                continue
            self._devices[device.device_id] = replace(device, healthy=not reason, reason=reason)
            say = _log.warning if reason else _log.info
            say("device is unhealthy" if reason else "device is healthy", device=device.device_id, reason=reason)
            self.changed.set()

    async def watch(self) -> None:
        """Looks for ever; on a node without devices there is nothing to look at."""
        while self._drivers:
            await asyncio.sleep(_LOOK_S)
            await self.look()
        await asyncio.Event().wait()

    def reserve(self, amounts: Mapping[str, int]) -> Reservation:
        """What a container with so much of each device needs. CreateRefused for what is not here or unhealthy."""
        for device_id, amount in amounts.items():
            device = self._devices.get(device_id)
            if device is None:
                raise CreateRefused(f"this node has no device {device_id}; it has {', '.join(self._devices) or 'none'}")
            if not device.healthy:
                raise CreateRefused(f"device {device_id} is unhealthy: {device.reason}")
            if not 0 < amount <= device.total:
                raise CreateRefused(f"asked {amount} of device {device_id}, it has {device.total}")
        return together(
            driver.accelerator.reserve({one: amount for one, amount in amounts.items() if self._of[one] is driver})
            for driver in self._drivers
        )

    async def measure(self) -> list[DeviceMeasure]:
        """Each device now; nothing of a driver that does not answer."""
        answers = await asyncio.gather(*(driver.measure() for driver in self._drivers))
        return [measure for answer in answers for measure in answer if measure.device_id in self._devices]

    async def readings(self) -> list[DeviceReading]:
        """The same as a session's statistics show it."""
        return [
            DeviceReading(
                one.device_id,
                None if one.utilisation is None else 100 * one.utilisation,
                one.memory_used,
                one.memory_total,
                one.temperature_c,
                one.power_w,
            )
            for one in await self.measure()
        ]

    def _of_driver(self, driver: _Driver) -> list[str]:
        return [device_id for device_id, one in self._of.items() if one is driver]


class _Driver:
    """An accelerator that may hang or fail: that is its devices' trouble, not the agent's."""

    def __init__(self, name: str, accelerator: Accelerator, answer_s: float) -> None:
        self.name = name
        self.accelerator = accelerator
        self._answer_s = answer_s
        self._asked: dict[str, asyncio.Future[object]] = {}

    async def fingerprint(self) -> list[Device]:
        try:
            return await self._ask("fingerprint", self.accelerator.fingerprint, within_s=_FIRST_ANSWER_S)
        except Exception as error:
            _log.error("no devices are offered", accelerator=self.name, error=repr(error)[:200])
            return []

    async def health(self, device_ids: list[str]) -> Mapping[str, str]:
        try:
            return await self._ask("health", self.accelerator.health, within_s=self._answer_s)
        except TimeoutError:
            reason = f"{self.name} has not answered for {self._answer_s:g} s"
        except Exception as error:
            reason = f"{self.name} failed: {error!r}"[:200]
        return dict.fromkeys(device_ids, reason)

    async def measure(self) -> list[DeviceMeasure]:
        try:
            return await self._ask("measure", self.accelerator.measure, within_s=self._answer_s)
        except Exception as error:
            _log.warning("not measured", accelerator=self.name, error=repr(error)[:200])
            return []

    async def _ask(self, name: str, question: Callable[[], _T], *, within_s: float) -> _T:
        """A question that hangs is not asked a second time: each would cost a thread for ever."""
        if name not in self._asked:
            self._asked[name] = _in_a_thread(question)
            self._asked[name].add_done_callback(lambda answer: self._answered(name, answer))
        asked: asyncio.Future[_T] = self._asked[name]  # type: ignore[assignment]
        async with asyncio.timeout(within_s):  # wait_for loses a cancel that comes with the answer
            return await asyncio.shield(asked)

    def _answered(self, name: str, answer: asyncio.Future[object]) -> None:
        self._asked.pop(name, None)
        if not answer.cancelled():
            answer.exception()  # nobody may wait for it any more


def _plain(reason: object) -> str:
    """What the database and a line of a table can show: a driver's text may be anything."""
    return " ".join(str(reason).replace("\0", " ").split())[:_LONGEST_REASON] or "no reason was given"


def _in_a_thread(question: Callable[[], object]) -> asyncio.Future[object]:
    """Of its own and a daemon: one that never ends must not keep the agent from ending."""
    outcome: Future[object] = Future()

    def run() -> None:
        try:
            outcome.set_result(question())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="accelerator").start()
    return asyncio.wrap_future(outcome)
