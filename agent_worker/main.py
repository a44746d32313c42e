"""The agent: a worker of its node's own queue, the node's voice, and the data plane. Containers outlive it."""

from __future__ import annotations

import asyncio
import ipaddress
import platform
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from urllib.parse import urlsplit

import uvicorn
from docker.errors import DockerException
from temporalio.client import Client
from temporalio.worker import Worker

from agent_worker import dataplane
from agent_worker.accelerators.found import accelerators
from agent_worker.activities import NodeKernels
from agent_worker.dataplane.places import Places
from agent_worker.disk_watch import DiskWatch
from agent_worker.fence import Fence
from agent_worker.idle_watch import IdleWatch, teller
from agent_worker.images.node import NodeImages
from agent_worker.images.served import pull_routes
from agent_worker.inventory import Inventory
from agent_worker.kept_logs import KeptLogs
from agent_worker.metrics.meter import Meter
from agent_worker.presence import NodePresence
from agent_worker.probes import Prober
from agent_worker.proofs import Proofs
from agent_worker.runtimes.contract import Runtime
from agent_worker.runtimes.docker import DockerRuntime
from agent_worker.runtimes.simulated import SimulatedRuntime
from agent_worker.uses import Uses
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import KernelActivities, PresenceActivities, registered
from moorage.contracts.dataplane import WEBSOCKETS
from moorage.contracts.images import NodeImageActivities
from moorage.domain.errors import InvalidRequest, MoorageError, Unavailable
from moorage.domain.ids import checked_agent_id, new_id
from moorage.domain.node import AgentInfo, ContainerSeen, Device
from moorage.domain.resources import CPU, MEM, parse_cpu, parse_size
from moorage.settings import Settings, load_settings, require
from moorage.temporal import connect

_log = log.get("agent")


def build_runtime(settings: Settings) -> Runtime:
    if settings.agent_runtime == "simulated":
        return SimulatedRuntime(settings.agent_data_dir / "simulated-containers.json")
    if settings.agent_runtime != "docker":
        raise InvalidRequest(f"MOORAGE_AGENT_RUNTIME is {settings.agent_runtime!r}; allowed are docker and simulated")
    try:
        return DockerRuntime(
            settings.agent_id,
            cluster=settings.cluster,
            namespaces=settings.agent_namespaces,
            egress_deny=[one for one in settings.agent_egress_deny.split(",") if one],
            engine=settings.agent_docker_host,
        )
    except DockerException as error:
        raise Unavailable(f"Docker does not answer ({error}); start it, or set MOORAGE_AGENT_DOCKER_HOST") from error


async def offered(settings: Settings, runtime: Runtime, devices: Iterable[Device]) -> dict[str, int]:
    """The node's capacity, or what the settings say instead."""
    slots = await runtime.capacity()
    for device in devices:
        slots[device.slot] = slots.get(device.slot, 0) + device.total
    if settings.agent_cpu:
        slots[CPU] = parse_cpu(settings.agent_cpu)
    if settings.agent_mem:
        slots[MEM] = parse_size(settings.agent_mem)
    return slots


def overlay_address(settings: Settings, data_plane: str) -> str:
    """Where other nodes send what goes between a gang's kernels; empty if nothing says it."""
    if settings.agent_overlay_address:
        return settings.agent_overlay_address
    host = urlsplit(data_plane).hostname or ""
    try:
        address = ipaddress.IPv4Address(socket.gethostbyname(host))
    except (OSError, ValueError):
        return ""
    return "" if address.is_unspecified else str(address)


async def run(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    settings.agent_data_dir.mkdir(parents=True, exist_ok=True)
    runtime = build_runtime(settings)
    logs = KeptLogs(settings.agent_data_dir / "logs", cap_bytes=settings.agent_log_bytes)
    proofs = Proofs(settings.agent_data_dir / "proofs")
    listener = socket.create_server((settings.agent_host, settings.agent_port))
    address = settings.agent_advertised_url or f"http://{settings.agent_host}:{listener.getsockname()[1]}"
    inventory = Inventory(accelerators(settings))
    await inventory.take_stock()
    # Simulated sessions say themselves how busy they are.
    devices = runtime.devices if isinstance(runtime, SimulatedRuntime) else inventory.readings
    meter = Meter(runtime, devices)
    images = NodeImages(
        runtime.store,
        settings.agent_data_dir / "images.json",
        max_age_h=settings.agent_image_max_age_h,
        disk_percent=settings.agent_image_disk_percent,
        changed=inventory.changed,
    )
    places = Places(of_kernel=settings.agent_streams_per_kernel, of_node=settings.agent_streams)
    uses = Uses()
    idle = IdleWatch(runtime, meter, last_use=uses.last_use)
    app = dataplane.build(
        runtime,
        logs,
        agent_id=settings.agent_id,
        key=settings.dataplane_key,
        meter=meter,
        places=places,
        uses=uses,
        idle=idle.seen,
    )
    app.routes.extend(pull_routes(images, agent_id=settings.agent_id, key=settings.dataplane_key))
    server = _DataPlane(uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False, **WEBSOCKETS))
    slots, incarnation = await offered(settings, runtime, inventory.devices), new_id()
    warnings = await runtime.prepare()
    for warning in warnings:
        _log.warning("this node does not hold all it should", why=warning)

    def info(containers: list[ContainerSeen], images: list[str]) -> AgentInfo:
        return AgentInfo(
            agent_id=settings.agent_id,
            resource_group=settings.agent_resource_group,
            slots=slots,
            address=address,
            architecture=platform.machine(),
            runtime=settings.agent_runtime,
            hostname=socket.gethostname(),
            version="0.1.0",
            incarnation=incarnation,
            containers=containers,
            devices=inventory.devices,
            images=images,
            overlay_address=overlay_address(settings, address),
            warnings=warnings,
        )

    serving = asyncio.create_task(server.serve(sockets=[listener]))
    fence = Fence(runtime, settings.agent_data_dir / "fenced.json")
    alone = asyncio.create_task(fence.alone(after_s=settings.agent_fence_s))
    client = await _connected(settings, stopped)
    alone.cancel()
    if client is None:
        server.should_exit = True
        await serving
        await runtime.close()
        return
    disk = DiskWatch(runtime, settings.agent_disk_bytes)
    presence = NodePresence(client, runtime, info, inventory, fence, images=images, explained=disk.explained)
    prober = Prober(runtime, presence.tell_health)
    kernels = NodeKernels(runtime, logs, inventory, meter=meter, prober=prober, proofs=proofs, images=images)
    worker = Worker(
        client,
        task_queue=names.agent_queue(settings.agent_id),
        identity=f"agent-{settings.agent_id}",
        activities=[
            *registered(KernelActivities, kernels),
            *registered(NodeImageActivities, images),
            *registered(PresenceActivities, presence),
        ],
        max_concurrent_activity_task_polls=2,
        max_concurrent_activities=200,
        # The node's heartbeats are due every 5 s; the default would hold them back for 12.
        max_heartbeat_throttle_interval=timedelta(seconds=4),
        default_heartbeat_throttle_interval=timedelta(seconds=4),
        graceful_shutdown_timeout=timedelta(seconds=1),
    )
    async with worker:
        speaking = asyncio.create_task(presence.run(fence_s=settings.agent_fence_s))
        tending = asyncio.create_task(runtime.tend())
        collecting = asyncio.create_task(images.tend())
        forgetting = asyncio.create_task(logs.tend(settings.agent_log_days * 86400))
        watching = asyncio.create_task(inventory.watch())
        metering = asyncio.create_task(meter.run())
        probing = asyncio.create_task(prober.run())
        weighing = asyncio.create_task(disk.run())
        idling = asyncio.create_task(idle.run(teller(client)))
        waiting = asyncio.create_task(stopped.wait())
        _log.info("working", agent=settings.agent_id, address=address)
        parts = {speaking, tending, collecting, forgetting, watching, metering, weighing, probing, idling}
        await asyncio.wait({waiting, *parts, serving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, *parts):
            task.cancel()
    server.should_exit = server.force_exit = True
    ends = await asyncio.gather(*parts, serving, return_exceptions=True)
    await runtime.close()
    if not stopped.is_set():
        causes = [repr(end) for end in ends if isinstance(end, Exception)]
        raise Unavailable(f"a part of the agent stopped: {', '.join(causes) or 'the data plane'}")


class _DataPlane(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the agent's."""
        yield


async def _connected(settings: Settings, stopped: asyncio.Event) -> Client | None:
    """A client as soon as Temporal answers; None if the agent is told to stop before."""
    delay = 0.1
    while not stopped.is_set():
        try:
            return await connect(settings)
        except RuntimeError as error:
            _log.warning("Temporal is away", address=settings.temporal_address, error=str(error)[:200])
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await stopped.wait()
            delay = min(delay * 2, 5.0)
    return None


def main() -> None:
    try:
        settings = load_settings()
        require(settings, "dataplane_key", "payload_keys")
        checked_agent_id(settings.agent_id)
        log.configure(settings.log_level, settings.log_format, role="agent")
        asyncio.run(run(settings))
    except MoorageError as error:
        sys.exit(f"moor agent: {error.message}")


if __name__ == "__main__":
    main()
