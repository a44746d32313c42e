"""Containers in memory, for laptops, tests and clusters of thousands of nodes. They outlive the agent in a small file.

A session's environment configures what happens: MOORAGE_SIM_RUN_S (ends by itself after so long),
MOORAGE_SIM_EXIT_CODE, MOORAGE_SIM_CREATE_S (latency), MOORAGE_SIM_OOM=1, MOORAGE_SIM_FAIL_CREATE=1,
MOORAGE_SIM_IGNORE_STOP=1; and what it is measured to use, as a part of what it asked for: MOORAGE_SIM_CPU (0.5),
MOORAGE_SIM_MEM (0.25) and MOORAGE_SIM_DEVICE (0.5), and in bytes MOORAGE_SIM_DISK (0). The commands `exit N` and
`sleep N` do what they say. Images `missing/…` don't exist. A container is well from MOORAGE_SIM_HEALTHY_AFTER_S (0)
until MOORAGE_SIM_UNHEALTHY_AFTER_S (never) after its start: at other times its ports refuse, and commands in it exit
with 1.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from agent_worker.idle_label import idle_label
from agent_worker.metrics.reading import Reading, Readings
from agent_worker.runtimes.contract import (
    Checked,
    CreateRefused,
    ExecResult,
    Exited,
    ImageMissing,
    PullFailed,
    Runtime,
    Started,
)
from moorage.contracts.accelerators import Reservation
from moorage.domain.health import health_check
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import CPU, MEM, SHARES_OF_A_DEVICE
from moorage.domain.session import KernelExit, KernelSpec, NodeLossPolicy
from moorage.domain.stats import DeviceReading

_USES = {CPU: "MOORAGE_SIM_CPU", MEM: "MOORAGE_SIM_MEM", "device": "MOORAGE_SIM_DEVICE"}
_IO_S, _NET_S = 100_000, 50_000  # bytes a second
_DEVICE_MEM = 80 * 1024**3


@dataclass(frozen=True, slots=True)
class _Container:
    session_id: str
    kernel_id: str
    attempt: int
    container_id: str
    started: float
    ends: float | None  # seconds since 1970; None runs until it is stopped
    exit_code: int
    oom: bool
    ignores_stop: bool
    requeued_elsewhere: bool
    slots: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    uses: dict[str, float] = field(default_factory=dict)  # the part of it, by kind
    disk: int = 0  # bytes written
    health: dict[str, Any] | None = None  # its moorage.domain.health.HealthCheck
    well: tuple[float, float | None] = (0.0, None)  # from when until when, in seconds after the start
    labels: dict[str, str] = field(default_factory=dict)

    def has_ended(self) -> bool:
        return self.ends is not None and self.ends <= time.time()

    def is_well(self) -> bool:
        age_s, (since_s, until_s) = time.time() - self.started, self.well
        return not self.has_ended() and since_s <= age_s and (until_s is None or age_s < until_s)

    def exit(self) -> KernelExit:
        return KernelExit(self.kernel_id, self.attempt, self.exit_code, self.oom, at=self.ends or time.time())

    def seen(self) -> ContainerSeen:
        ended = self.has_ended()
        return ContainerSeen(
            self.session_id,
            self.kernel_id,
            self.attempt,
            self.container_id,
            "exited" if ended else "running",
            self.exit_code if ended else None,
            self.oom if ended else False,
            sorted(self.devices),
        )

    def reading(self) -> Reading:
        """Pretended: steady use of what was asked for, and a little traffic."""
        age_s, cpu, mem = max(0.0, time.time() - self.started), self.slots.get(CPU), self.slots.get(MEM)
        used = None if mem is None else round(mem * self.uses.get(MEM, 0.25))
        return Reading(
            age_s=age_s,
            cpu_us=None if cpu is None else round(age_s * cpu * 1000 * self.uses.get(CPU, 0.5)),
            cpu_limit=cpu,
            mem=used,
            mem_limit=mem,
            mem_peak=used,
            io_read=round(age_s * _IO_S),
            io_write=round(age_s * _IO_S / 2),
            net_rx=round(age_s * _NET_S),
            net_tx=round(age_s * _NET_S / 2),
            pids=2,
        )


class SimulatedRuntime(Runtime):
    def __init__(self, file: Path) -> None:
        self._file = file
        self._exits: asyncio.Queue[Exited] = asyncio.Queue()
        self._containers = {container.container_id: container for container in _load(file)}
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._wound = False
        self._files: dict[str, dict[str, str]] = {}  # container → path → base64; never saved
        self._values: dict[str, set[str]] = {}  # of its variables; never saved

    async def capacity(self) -> dict[str, int]:
        return {CPU: 16_000, MEM: 64 * 1024**3}

    async def images(self) -> list[str]:
        return []

    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        await asyncio.sleep(float(spec.env.get("MOORAGE_SIM_CREATE_S", 0)))
        if spec.image.startswith("missing/"):
            raise ImageMissing(f"No such image: {spec.image}")
        if spec.env.get("MOORAGE_SIM_FAIL_CREATE") == "1":
            raise CreateRefused("the simulated runtime was told to refuse")
        container_id = f"sim-{spec.kernel_id}-{spec.attempt}"
        container = self._containers.get(container_id)
        if container is None:
            container = _new(container_id, spec)
            self._containers[container_id] = container
            self._values[container_id] = set(spec.env.values())
            self._files[container_id] = dict(spec.files)
            self._save()
        if container.has_ended():
            return Started(container_id, container.exit())
        self._wind(container)
        return Started(container_id)

    async def pull(self, image: str, progress: Callable[[str], None]) -> None:
        if image.startswith("missing/"):
            raise PullFailed(f"pull access denied for {image}, repository does not exist")

    async def stop(self, container: ContainerSeen, grace_s: float) -> KernelExit:
        found = self._containers.get(container.container_id)
        if found is None:
            return KernelExit(container.kernel_id, container.attempt, None, gone=True, at=time.time())
        if found.ignores_stop and grace_s > 0 and not found.has_ended():
            await asyncio.sleep(grace_s)
            # It may have ended, or have been killed and removed, during the grace period.
            found = self._containers.get(container.container_id, found)
        if container.container_id in self._containers and not found.has_ended():
            found = self._end(found, exit_code=137 if found.ignores_stop or grace_s == 0 else 143)
        return found.exit()

    def _end(self, container: _Container, *, exit_code: int) -> _Container:
        if clock := self._clocks.pop(container.container_id, None):
            clock.cancel()
        ended = replace(container, ends=time.time(), exit_code=exit_code, oom=False)
        self._containers[container.container_id] = ended
        self._save()
        self._exits.put_nowait(Exited(ended.session_id, ended.exit()))
        return ended

    async def remove(self, container: ContainerSeen) -> None:
        if clock := self._clocks.pop(container.container_id, None):
            clock.cancel()
        self._files.pop(container.container_id, None)
        self._values.pop(container.container_id, None)
        if self._containers.pop(container.container_id, None) is not None:
            self._save()

    async def containers(self) -> list[ContainerSeen]:
        self._wind_all()
        return [container.seen() for container in self._containers.values()]

    async def labelled(self, label: str) -> list[tuple[ContainerSeen, str]]:
        return [
            (one.seen(), one.labels[label])
            for one in self._containers.values()
            if label in one.labels and not one.has_ended()
        ]

    async def write_file(self, container: ContainerSeen, path: str, text: str) -> None:
        files = self._files.setdefault(container.container_id, {})
        if text or path in files:
            files[path] = base64.b64encode(text.encode()).decode()

    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        return [one.seen() for one in self._containers.values() if one.requeued_elsewhere and not one.has_ended()]

    async def logs(self, container: ContainerSeen, *, follow: bool, tail: int | None = None) -> AsyncIterator[bytes]:
        if container.container_id in self._containers and tail != 0:
            yield b"simulated: started\n"
        while follow and self._runs(container):  # noqa: ASYNC110 (the end is a time on the clock, no event)
            await asyncio.sleep(0.1)

    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        content = self._files.get(container.container_id, {}).get(command[-1]) if command[0] == "cat" else None
        if content is not None:
            return ExecResult(0, base64.b64decode(content).decode(errors="replace"), "")
        found = self._containers.get(container.container_id)
        if found is None or found.has_ended():
            raise CreateRefused(f"container {container.container_id} is not running")
        if not found.is_well():
            return ExecResult(1, "", "simulated: unwell\n")
        return ExecResult(0, f"simulated: {' '.join(command)}\n", "")

    async def connects(self, container: ContainerSeen, port: int, timeout_s: float) -> bool:
        found = self._containers.get(container.container_id)
        return found is not None and found.is_well()

    async def checked(self) -> list[Checked]:
        running = [one for one in self._containers.values() if not one.has_ended()]
        checks = [(one, health_check(one.health)) for one in running]
        return [Checked(one.seen(), check, max(0.0, time.time() - one.started)) for one, check in checks if check]

    async def given(self, container: ContainerSeen) -> set[str]:
        files = self._files.get(container.container_id, {}).values()
        values = self._values.get(container.container_id, set())
        return values | {base64.b64decode(content).decode(errors="replace") for content in files}

    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        """The node uses what its containers do."""
        running = [one for one in self._containers.values() if not one.has_ended()]
        wanted = {container.container_id for container in containers}
        found = {one.container_id: one.reading() for one in running}
        capacity = await self.capacity()
        node = Reading(
            cpu_us=sum(one.cpu_us or 0 for one in found.values()),
            cpu_limit=capacity[CPU],
            mem=sum(one.mem or 0 for one in found.values()),
            mem_limit=capacity[MEM],
            pids=sum(one.pids or 0 for one in found.values()),
        )
        return Readings(node, {name: reading for name, reading in found.items() if name in wanted})

    async def written(self) -> list[tuple[ContainerSeen, int]]:
        return [(one.seen(), one.disk) for one in self._containers.values() if not one.has_ended()]

    async def devices(self) -> list[DeviceReading]:
        """The accelerators that running containers hold, each as busy as its holders' environment says."""
        busy: dict[str, float] = defaultdict(float)
        for one in self._containers.values():
            for device, amount in {} if one.has_ended() else one.devices.items():
                part = amount / SHARES_OF_A_DEVICE if amount > 1 else 1.0
                busy[device] += 100 * part * one.uses.get("device", 0.5)
        return [
            DeviceReading(name, min(100.0, percent), round(_DEVICE_MEM * percent / 100), _DEVICE_MEM, 40 + percent / 4)
            for name, percent in sorted(busy.items())
        ]

    async def exits(self) -> AsyncIterator[Exited]:
        self._wind_all()
        while True:
            yield await self._exits.get()

    async def close(self) -> None:
        for clock in self._clocks.values():
            clock.cancel()

    def _runs(self, container: ContainerSeen) -> bool:
        found = self._containers.get(container.container_id)
        return found is not None and not found.has_ended()

    def _wind_all(self) -> None:
        """After a restart of the agent, the clocks of what still runs go on."""
        if not self._wound:
            self._wound = True
            for container in list(self._containers.values()):
                if not container.has_ended():
                    self._wind(container)

    def _wind(self, container: _Container) -> None:
        if container.ends is not None and container.container_id not in self._clocks:
            loop = asyncio.get_running_loop()
            self._clocks[container.container_id] = loop.call_later(
                max(0.0, container.ends - time.time()) + 0.001,
                lambda: self._exits.put_nowait(Exited(container.session_id, container.exit())),
            )

    def _save(self) -> None:
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(container) for container in self._containers.values()]))
        partial.replace(self._file)


def _load(file: Path) -> list[_Container]:
    if not file.exists():
        return []
    known = {field.name for field in fields(_Container)}
    saved = json.loads(file.read_text())
    return [_Container(**{name: value for name, value in one.items() if name in known}) for one in saved]


def _new(container_id: str, spec: KernelSpec) -> _Container:
    command, now = spec.command, time.time()
    run_s = float(spec.env["MOORAGE_SIM_RUN_S"]) if "MOORAGE_SIM_RUN_S" in spec.env else None
    exit_code = int(spec.env.get("MOORAGE_SIM_EXIT_CODE", 0))
    if len(command) == 2 and command[0] == "exit":
        run_s, exit_code = 0.0, int(command[1])
    elif len(command) == 2 and command[0] == "sleep" and run_s is None and command[1] != "infinity":
        run_s = float(command[1])
    oom = spec.env.get("MOORAGE_SIM_OOM") == "1"
    return _Container(
        session_id=spec.session_id,
        kernel_id=spec.kernel_id,
        attempt=spec.attempt,
        container_id=container_id,
        started=now,
        ends=None if run_s is None else now + run_s,
        exit_code=137 if oom else exit_code,
        oom=oom,
        ignores_stop=spec.env.get("MOORAGE_SIM_IGNORE_STOP") == "1",
        requeued_elsewhere=spec.on_node_loss == NodeLossPolicy.REQUEUE,
        slots=dict(spec.slots),
        devices=dict(spec.devices),
        health=asdict(spec.health) if spec.health else None,
        well=_well(spec.env),
        uses={kind: float(spec.env[name]) for kind, name in _USES.items() if name in spec.env},
        disk=int(spec.env.get("MOORAGE_SIM_DISK", 0)),
        labels=idle_label(spec),
    )


def _well(env: Mapping[str, str]) -> tuple[float, float | None]:
    until = env.get("MOORAGE_SIM_UNHEALTHY_AFTER_S")
    return float(env.get("MOORAGE_SIM_HEALTHY_AFTER_S", 0)), None if until is None else float(until)
