"""The node's meter: looks at each container every few seconds and keeps what it saw for a quarter of an hour."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from agent_worker.metrics.reading import Readings
from agent_worker.metrics.track import Track
from agent_worker.runtimes.contract import Runtime
from moorage import log
from moorage.domain.node import ContainerSeen
from moorage.domain.stats import DeviceReading, KernelStats, Stats
from moorage.domain.usage import KernelUsage

Devices = Callable[[], Awaitable[Sequence[DeviceReading]]]

_PERIOD_S = 5.0
# Many sessions are shorter than a period: what is new is looked at more often.
_YOUNG_S, _YOUNG_PERIOD_S = 10.0, 1.0
# Containers are told by whoever makes and removes them; all others are found this often.
_LIST_S = 30.0
# A stop does not wait longer for it.
_LAST_LOOK_S = 1.0
_DEVICES_S = 1.0
# What was not seen for so long is unknown.
_STALE_S = 4 * _PERIOD_S
# Answers of ended kernels, for an order that is given again.
_REMEMBERED = 1000

_Life = tuple[str, int]  # kernel, attempt
_log = log.get("meter")


async def no_devices() -> Sequence[DeviceReading]:
    return ()


class _Metered:
    """A container with its track."""

    def __init__(self, container: ContainerSeen, now: float) -> None:
        self.container = container
        self.track = Track()
        self.due = now
        self.young_until = now + _YOUNG_S


class Meter:
    """`devices` answers what each accelerator of the node does now; `clock` is monotonic, `now` the time of day."""

    def __init__(
        self,
        runtime: Runtime,
        devices: Devices = no_devices,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._runtime = runtime
        self._read_devices = devices
        self._clock = clock
        self._now = now
        self._metered: dict[_Life, _Metered] = {}
        self._ended: OrderedDict[_Life, KernelUsage] = OrderedDict()
        self._node = Track()
        self._devices: dict[str, DeviceReading] = {}
        self._node_due = self._list_due = clock()
        self._woken = asyncio.Event()
        self._measuring = asyncio.Lock()

    async def run(self) -> None:
        """Rounds for ever, until cancelled. A runtime that is away costs samples and nothing else."""
        while True:
            try:
                await self.look()
            except Exception as error:
                _log.warning("nothing was measured", error=_words(error))
            self._woken.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._woken.wait()

    async def look(self) -> None:
        """One round: whatever is due."""
        if self._clock() >= self._list_due:
            await self._find_others()
        clock = self._clock()
        due = [one for one in self._metered.values() if clock >= one.due and one.container.state == "running"]
        if due or clock >= self._node_due:
            await self._measure(due)

    def begin(self, container: ContainerSeen) -> None:
        """A container was made. Its first look waits a moment: not to slow down the start of the next one."""
        self._metered.setdefault(_life(container), _Metered(container, self._clock() + _YOUNG_PERIOD_S))
        self._woken.set()

    async def last_look(self, containers: Sequence[ContainerSeen]) -> None:
        """Before they are stopped: what they have used until now. Nothing that fails here keeps one from its end."""
        try:
            metered = [
                self._metered.setdefault(_life(container), _Metered(container, self._clock()))
                for container in containers
            ]
            async with asyncio.timeout(_LAST_LOOK_S):
                await self._measure(metered)
        except Exception as error:
            _log.warning("not measured before its end", error=_words(error))

    def end(self, kernel_id: str, attempt: int) -> KernelUsage | None:
        """What the kernel used in its life; the same when it is asked again. None if nobody saw it run."""
        metered = self._metered.pop((kernel_id, attempt), None)
        usage = metered.track.usage(kernel_id, attempt) if metered is not None else None
        if usage is not None:
            self._ended[kernel_id, attempt] = usage
            while len(self._ended) > _REMEMBERED:
                self._ended.popitem(last=False)
        return self._ended.get((kernel_id, attempt))

    def node(self) -> Stats | None:
        return self._node.stats_at(self._clock(), _STALE_S)

    def devices(self) -> list[DeviceReading]:
        return list(self._devices.values())

    def kernels(self, session_id: str = "", since_s: float = 0) -> list[KernelStats]:
        """All of them or one session's: what they use now, and did in the last `since_s` seconds."""
        clock = self._clock()
        return [
            KernelStats(
                one.container.session_id,
                one.container.kernel_id,
                one.container.attempt,
                one.track.stats_at(clock, _STALE_S),
                one.track.history(clock - since_s) if since_s else [],
            )
            for one in self._metered.values()
            if not session_id or one.container.session_id == session_id
        ]

    async def _measure(self, due: Sequence[_Metered]) -> None:
        """One after the other: a counter read later is never noted earlier."""
        async with self._measuring:
            readings = await self._runtime.measure([one.container for one in due])
            if self._clock() >= self._node_due:
                self._devices = {device.device_id: device for device in await self._devices_now()}
            self._note(due, readings)

    async def _find_others(self) -> None:
        """Those that nobody told of. While the list can't be had, what is known is measured all the same."""
        self._list_due = self._clock() + _LIST_S
        known = set(self._metered)
        try:
            self._compare(known, await self._runtime.containers())
        except Exception as error:
            _log.warning("containers were not listed", error=_words(error))

    async def _devices_now(self) -> Sequence[DeviceReading]:
        """None where the accelerators' own library fails or hangs; the containers are measured all the same."""
        try:
            async with asyncio.timeout(_DEVICES_S):
                return await self._read_devices()
        except Exception as error:
            _log.warning("devices were not measured", error=_words(error))
            return ()

    def _note(self, due: Sequence[_Metered], readings: Readings) -> None:
        at, clock = self._now(), self._clock()
        if clock >= self._node_due:
            self._node_due = clock + _PERIOD_S
            self._node.add(readings.node, at=at, clock=clock)
        for one in due:
            one.due = clock + (_YOUNG_PERIOD_S if clock < one.young_until else _PERIOD_S)
            reading = readings.containers.get(one.container.container_id)
            if reading is not None:
                held = [self._devices[name] for name in one.container.devices if name in self._devices]
                one.track.add(reading, at=at, clock=clock, devices=held)

    def _compare(self, known: Iterable[_Life], containers: Iterable[ContainerSeen]) -> None:
        """What is there is metered; what was `known` before the look and is gone is forgotten."""
        there = {_life(container): container for container in containers}
        for life, container in there.items():
            self._metered.setdefault(life, _Metered(container, self._clock())).container = container
        for life in set(known) - there.keys():
            self._metered.pop(life, None)

    def _pause_s(self) -> float:
        running = [one.due for one in self._metered.values() if one.container.state == "running"]
        return max(0.05, min([self._node_due, *running]) - self._clock())


def _life(container: ContainerSeen) -> _Life:
    return container.kernel_id, container.attempt


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
