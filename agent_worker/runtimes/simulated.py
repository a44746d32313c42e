"""Containers in memory, for laptops, tests and clusters of thousands of nodes. They outlive the agent in a small file.

A session's environment configures what happens: MOORAGE_SIM_RUN_S (ends by itself after so long),
MOORAGE_SIM_EXIT_CODE, MOORAGE_SIM_CREATE_S (latency), MOORAGE_SIM_OOM=1, MOORAGE_SIM_FAIL_CREATE=1,
MOORAGE_SIM_IGNORE_STOP=1; and what it is measured to use, as a part of what it asked for: MOORAGE_SIM_CPU (0.5),
MOORAGE_SIM_MEM (0.25) and MOORAGE_SIM_DEVICE (0.5), and in bytes MOORAGE_SIM_DISK (0). The commands `exit N` and
`sleep N` do what they say. Images are on the node, but for those that simulated_images.py names. A container is well
from MOORAGE_SIM_HEALTHY_AFTER_S (0) until MOORAGE_SIM_UNHEALTHY_AFTER_S (never) after its start: at other times its
ports refuse, and commands in it exit with 1. Ports from 1024 on send back what they get. Files are in memory and gone
with the agent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from agent_worker.idle_label import idle_label
from agent_worker.metrics.reading import Reading, Readings
from agent_worker.runtimes.contract import (
    Checked,
    CommitRefused,
    Committed,
    CreateRefused,
    ExecResult,
    Exited,
    FileFound,
    ImageMissing,
    PortClosed,
    Runtime,
    Started,
    UpdateRefused,
    check_owner,
    check_use,
)
from agent_worker.runtimes.process import Order, Process
from agent_worker.runtimes.simulated_files import SimulatedFiles
from agent_worker.runtimes.simulated_images import SimulatedImages
from agent_worker.runtimes.simulated_process import SimulatedProcess
from moorage.contracts.accelerators import Reservation
from moorage.domain.health import health_check
from moorage.domain.log_lines import stamp_at
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import CPU, MEM, SHARES_OF_A_DEVICE
from moorage.domain.session import KernelExit, KernelSpec, NodeLossPolicy
from moorage.domain.stats import DeviceReading

_USES = {CPU: "MOORAGE_SIM_CPU", MEM: "MOORAGE_SIM_MEM", "device": "MOORAGE_SIM_DEVICE"}
_IO_S, _NET_S = 100_000, 50_000  # bytes a second
_IMAGE_BYTES = 100_000_000
_DEVICE_MEM = 80 * 1024**3
_FIRST_ECHO = 1024


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
    slots: dict[str, int] = field(default_factory=dict)  # its limits
    devices: dict[str, int] = field(default_factory=dict)
    uses: dict[str, float] = field(default_factory=dict)  # the part of it, by kind
    asked: dict[str, int] = field(default_factory=dict)  # at first; what it uses does not change with its limits
    user: str = ""
    disk: int = 0  # bytes written
    health: dict[str, Any] | None = None  # its moorage.domain.health.HealthCheck
    well: tuple[float, float | None] = (0.0, None)  # from when until when, in seconds after the start
    labels: dict[str, str] = field(default_factory=dict)
    image: str = "simulated"

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
        asked = self.asked or self.slots
        age_s, cpu, mem = max(0.0, time.time() - self.started), asked.get(CPU), asked.get(MEM)
        used = None if mem is None else round(mem * self.uses.get(MEM, 0.25))
        return Reading(
            age_s=age_s,
            cpu_us=None if cpu is None else round(age_s * cpu * 1000 * self.uses.get(CPU, 0.5)),
            cpu_limit=self.slots.get(CPU),
            mem=used,
            mem_limit=self.slots.get(MEM),
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
        self._images_file = file.with_name("simulated-images.json")
        self._committed: dict[str, str] = json.loads(_text_of(self._images_file) or "{}")  # image → whose it is
        self._exits: asyncio.Queue[Exited] = asyncio.Queue()
        self._containers = {container.container_id: container for container in _load(file)}
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._wound = False
        self._values: dict[str, set[str]] = {}  # of its variables and files; never saved
        self._files: dict[str, SimulatedFiles] = {}  # by container; never saved
        self._echoes: set[asyncio.Task[None]] = set()
        self.store = self._images = SimulatedImages()
        for container in self._containers.values():
            self._images.use(container.container_id, container.image)
        for image in self._committed:
            self._images.keep(image)

    async def capacity(self) -> dict[str, int]:
        return {CPU: 16_000, MEM: 64 * 1024**3}

    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        await asyncio.sleep(float(spec.env.get("MOORAGE_SIM_CREATE_S", 0)))
        if await self.store.find(spec.image) is None:
            raise ImageMissing(f"No such image: {spec.image}")
        if spec.env.get("MOORAGE_SIM_FAIL_CREATE") == "1":
            raise CreateRefused("the simulated runtime was told to refuse")
        container_id = f"sim-{spec.kernel_id}-{spec.attempt}"
        container = self._containers.get(container_id)
        if container is None:
            container = _new(container_id, spec)
            self._containers[container_id] = container
            self._values[container_id] = _values(spec)
            self._files[container_id] = SimulatedFiles(spec.files)
            self._images.use(container_id, spec.image)
            self._save()
        if container.has_ended():
            return Started(container_id, container.exit())
        self._wind(container)
        return Started(container_id)

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
        self._images.let_go(container.container_id)
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
        self._files_of(container).write(path, text.encode())

    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        return [one.seen() for one in self._containers.values() if one.requeued_elsewhere and not one.has_ended()]

    async def update(self, container: ContainerSeen, slots: Mapping[str, int]) -> None:
        found = self._containers.get(container.container_id)
        if found is None or found.has_ended():
            raise UpdateRefused(f"container {container.container_id} does not run")
        check_use(found.reading().mem, slots)
        changed = {name: slots[name] for name in (CPU, MEM) if name in slots}
        self._containers[container.container_id] = replace(found, slots=found.slots | changed)
        self._save()

    async def commit(self, container: ContainerSeen, image: str) -> Committed:
        found = self._containers.get(container.container_id)
        if found is None or found.has_ended():
            raise CommitRefused(f"container {container.container_id} does not run")
        check_owner(image, self._committed.get(image), found.user)
        self._committed[image] = found.user
        self._images.keep(image)
        self._images_file.write_text(json.dumps(self._committed))
        return Committed(f"sim-{container.container_id}", _IMAGE_BYTES)

    async def logs(
        self, container: ContainerSeen, *, follow: bool, tail: int | None = None, since: str = "", stamps: bool = False
    ) -> AsyncIterator[bytes]:
        found = self._containers.get(container.container_id)
        stamp = stamp_at(found.started) if found else ""
        if found and tail != 0 and since <= stamp:
            yield (f"{stamp} " if stamps else "").encode() + b"simulated: started\n"
        while follow and self._runs(container):  # noqa: ASYNC110 (the end is a time on the clock, no event)
            await asyncio.sleep(0.1)

    async def attach(self, container: ContainerSeen, order: Order) -> Process:
        if not self._runs(container):
            raise CreateRefused(f"container {container.container_id} is not running")
        return SimulatedProcess(order, self._files_of(container).read)

    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        found = self._containers.get(container.container_id)
        if found is not None and not found.has_ended() and not found.is_well():
            return ExecResult(1, "", "simulated: unwell\n")
        return await super().execute(container, command, timeout_s)

    async def find_file(self, container: ContainerSeen, path: str) -> FileFound:
        return self._files_of(container).find(path)

    def download(self, container: ContainerSeen, path: str) -> AsyncIterator[bytes]:
        return self._files_of(container).download(path)

    async def upload(self, container: ContainerSeen, folder: str, archive: AsyncIterator[bytes]) -> None:
        await self._files_of(container).upload(folder, archive)

    async def connect(self, container: ContainerSeen, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if port < _FIRST_ECHO:
            raise PortClosed(f"nothing answers on port {port} of the container")
        ours, theirs = socket.socketpair()
        echo = asyncio.create_task(_echo(theirs))
        self._echoes.add(echo)
        echo.add_done_callback(self._echoes.discard)
        return await asyncio.open_connection(sock=ours)

    def _files_of(self, container: ContainerSeen) -> SimulatedFiles:
        return self._files.setdefault(container.container_id, SimulatedFiles({}))

    async def connects(self, container: ContainerSeen, port: int, timeout_s: float) -> bool:
        found = self._containers.get(container.container_id)
        return found is not None and found.is_well()

    async def checked(self) -> list[Checked]:
        running = [one for one in self._containers.values() if not one.has_ended()]
        checks = [(one, health_check(one.health)) for one in running]
        return [Checked(one.seen(), check, max(0.0, time.time() - one.started)) for one, check in checks if check]

    async def given(self, container: ContainerSeen) -> set[str]:
        return set(self._values.get(container.container_id, ()))

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
        for echo in self._echoes:
            echo.cancel()

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


def _text_of(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def _load(file: Path) -> list[_Container]:
    known = {field.name for field in fields(_Container)}
    saved = json.loads(_text_of(file) or "[]")
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
        asked=dict(spec.slots),
        user=spec.user,
        devices=dict(spec.devices),
        health=asdict(spec.health) if spec.health else None,
        well=_well(spec.env),
        image=spec.image,
        uses={kind: float(spec.env[name]) for kind, name in _USES.items() if name in spec.env},
        disk=int(spec.env.get("MOORAGE_SIM_DISK", 0)),
        labels=idle_label(spec),
    )


def _values(spec: KernelSpec) -> set[str]:
    files = {base64.b64decode(content).decode(errors="replace") for content in spec.files.values()}
    return {*spec.env.values(), *files}


def _well(env: Mapping[str, str]) -> tuple[float, float | None]:
    until = env.get("MOORAGE_SIM_UNHEALTHY_AFTER_S")
    return float(env.get("MOORAGE_SIM_HEALTHY_AFTER_S", 0)), None if until is None else float(until)


async def _echo(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
