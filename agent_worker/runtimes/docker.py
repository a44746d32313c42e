"""Docker. Blocking calls run in a bounded pool of threads; what Docker is told is made by pure functions."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import CancellableStream, Mount

from agent_worker.metrics.gauges import Gauges
from agent_worker.metrics.reading import Readings
from agent_worker.runtimes.contract import (
    OUTPUT_CAP,
    CreateRefused,
    ExecResult,
    Exited,
    ImageMissing,
    Runtime,
    Started,
)
from agent_worker.runtimes.devices import devices
from agent_worker.runtimes.docker_images import DockerImages
from agent_worker.runtimes.namespaces import Namespaces
from agent_worker.runtimes.secret_files import SecretFiles, first_file, user_of
from moorage.contracts import names
from moorage.contracts.accelerators import Reservation
from moorage.domain.images import tagged
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import CPU, MEM
from moorage.domain.session import KernelExit, KernelSpec, NodeLossPolicy

_T = TypeVar("_T")
_THREADS = 16
_PERIOD_US = 100_000
# Grace periods are waited for in threads of their own: a hundred of them must not hold up a kill or a create.
_STOP_THREADS = 64
_SWEEP_S = 30.0


def limits(spec: KernelSpec) -> dict[str, Any]:
    """Cgroup limits. Swap is off: memory and swap together may not exceed the memory."""
    arguments: dict[str, Any] = {"pids_limit": spec.pids_limit}
    if CPU in spec.slots:
        arguments |= {"cpu_period": _PERIOD_US, "cpu_quota": spec.slots[CPU] * _PERIOD_US // 1000}
    if MEM in spec.slots:
        arguments |= {"mem_limit": spec.slots[MEM], "memswap_limit": spec.slots[MEM]}
    return arguments


def hardening() -> dict[str, Any]:
    """No capability, no new privilege, Docker's default seccomp profile, no host path."""
    return {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "init": True}


def network(spec: KernelSpec, namespace: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """For the container and for its host configuration: a namespace made ahead, else Docker's bridge; never the host's.

    A container that joins a namespace has that one's host name.
    """
    if namespace is not None:
        return {}, {"network_mode": f"container:{namespace}"}
    return {"hostname": spec.hostname}, {"network_mode": "bridge"}


def labels(spec: KernelSpec, node: str) -> dict[str, str]:
    return {
        names.LABEL_AGENT: node,
        names.LABEL_SESSION: spec.session_id,
        names.LABEL_KERNEL: spec.kernel_id,
        names.LABEL_ATTEMPT: str(spec.attempt),
        names.LABEL_ON_NODE_LOSS: spec.on_node_loss,
        **({names.LABEL_DEVICES: ",".join(sorted(spec.devices))} if spec.devices else {}),
    }


def environment(spec: KernelSpec) -> dict[str, str]:
    """The user's variables, and those that Backend.AI's sessions find too."""
    return {
        "BACKENDAI_SESSION_ID": spec.session_id,
        "BACKENDAI_SESSION_NAME": spec.session_name,
        "BACKENDAI_KERNEL_ID": spec.kernel_id,
        "BACKENDAI_CLUSTER_ROLE": spec.role,
        "BACKENDAI_CLUSTER_IDX": str(spec.index),
        "BACKENDAI_CLUSTER_HOST": spec.hostname,
        "BACKENDAI_CLUSTER_HOSTS": ",".join(spec.cluster or [spec.hostname]),
        "BACKENDAI_CLUSTER_SIZE": str(len(spec.cluster) or 1),
        **spec.env,
    }


def container_name(kernel_id: str, attempt: int) -> str:
    return f"moorage-{kernel_id}-{attempt}"


class DockerRuntime(Runtime):
    def __init__(self, agent_id: str, *, cluster: str = "moorage", namespaces: int = 0) -> None:
        """`namespaces` are kept ready for the next starts."""
        self._node = names.node_label(cluster, agent_id)
        self._client = docker.APIClient(version="auto", timeout=120)
        # A quiet log or event stream is no failure: no read timeout.
        self._streams = docker.APIClient(version=self._client.api_version, timeout=None)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._stops = ThreadPoolExecutor(_STOP_THREADS, thread_name_prefix="docker-stop")
        self._closing = threading.Event()
        self.secret_files = SecretFiles(self._node)
        self._gauges = Gauges(self._process)
        self.store = DockerImages(self._client, self._streams, self._call, self._stream)
        self.namespaces = Namespaces(self._client, self._node, size=namespaces, call=self._call)

    async def capacity(self) -> dict[str, int]:
        info = await self._call(self._client.info)
        return {CPU: int(info["NCPU"]) * 1000, MEM: max(0, int(info["MemTotal"]) - 512 * 1024**2)}

    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        held = reserved or Reservation()
        with self.namespaces.take(spec.hostname) as namespace:
            try:
                return await self._call(lambda: self._create(spec, held, namespace))
            except CreateRefused:
                if namespace is None:
                    raise
            # It may be the namespace that was bad: Docker makes a new one.
            return await self._call(lambda: self._create(spec, held, None))

    def _create(self, spec: KernelSpec, reserved: Reservation, namespace: str | None) -> Started:
        with self.secret_files.written(spec) as mounts:
            return self._create_with(spec, reserved, namespace, mounts)

    def _create_with(
        self, spec: KernelSpec, reserved: Reservation, namespace: str | None, mounts: list[Mount]
    ) -> Started:
        name = container_name(spec.kernel_id, spec.attempt)
        for_container, for_host = network(spec, namespace)
        try:
            container_id = str(
                self._client.create_container(
                    tagged(spec.image),  # a name that could be the beginning of an id is none
                    command=spec.command or None,
                    environment=environment(spec) | reserved.environment,
                    labels=labels(spec, self._node),
                    name=name,
                    host_config=self._client.create_host_config(
                        **limits(spec),
                        **hardening(),
                        **devices(reserved),
                        **for_host,
                        mounts=mounts,
                        log_config={"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
                    ),
                    **for_container,
                )["Id"]
            )
        except ImageNotFound as error:
            raise ImageMissing(_words(error)) from None
        except APIError as error:
            if error.status_code != 409:
                raise CreateRefused(_words(error)) from None
            container_id = str(self._client.inspect_container(name)["Id"])
        self.secret_files.hand_over(spec, lambda: self._user_of(container_id))
        return self._start(container_id, spec)

    def _user_of(self, container_id: str) -> tuple[int, int]:
        """The numbers of the user that its command runs as."""
        user = str(self._client.inspect_container(container_id)["Config"].get("User") or "0")
        try:
            chunks, _ = self._client.get_archive(container_id, "/etc/passwd")
            passwd = first_file(b"".join(chunks))
        except APIError:  # an image without names
            passwd = b""
        return user_of(user, passwd)

    def _start(self, container_id: str, spec: KernelSpec) -> Started:
        """Starts it, unless it ran already in an earlier try of this step."""
        state = None
        try:
            self._client.start(container_id)
        except APIError as error:
            state = self._client.inspect_container(container_id)["State"]
            if state["Status"] == "created" or state.get("Error"):
                with suppress(APIError):
                    self._client.remove_container(container_id, force=True, v=True)
                raise CreateRefused(_words(error)) from None
        if state is not None and state["Status"] == "exited":
            return Started(container_id, _exit(spec.kernel_id, spec.attempt, state))
        return Started(container_id)

    async def stop(self, container: ContainerSeen, grace_s: float) -> KernelExit:
        def stop() -> KernelExit:
            with suppress(NotFound):
                if grace_s > 0:
                    self._client.stop(container.container_id, timeout=round(grace_s))
                else:
                    try:
                        self._client.kill(container.container_id)
                    except APIError as error:
                        if error.status_code != 409:  # it does not run
                            raise
                self._client.wait(container.container_id, timeout=30)
                state = self._client.inspect_container(container.container_id)["State"]
                return _exit(container.kernel_id, container.attempt, state)
            return KernelExit(container.kernel_id, container.attempt, None, gone=True, at=time.time())

        if grace_s > 0:
            return await asyncio.get_running_loop().run_in_executor(self._stops, stop)
        with self.namespaces.busy():
            return await self._call(stop)

    async def remove(self, container: ContainerSeen) -> None:
        def remove() -> None:
            with suppress(NotFound):
                try:
                    self._client.remove_container(container.container_id, force=True, v=True)
                except APIError as error:
                    if error.status_code != 409:  # its removal is under way
                        raise
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    self._client.inspect_container(container.container_id)
                except NotFound:
                    return self.secret_files.remove(container.kernel_id, container.attempt)
                self._closing.wait(0.05)
            raise TimeoutError(f"container {container.container_id[:12]} is still there after 20 s")

        with self.namespaces.busy():
            await self._call(remove)
        self._gauges.forget(container.container_id)

    async def containers(self) -> list[ContainerSeen]:
        return await self._call(lambda: self._list({}))

    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        wanted = {names.LABEL_ON_NODE_LOSS: str(NodeLossPolicy.REQUEUE)}
        found = await self._call(lambda: self._list(wanted))
        return [container for container in found if container.state == "running"]

    def _list(self, wanted: dict[str, str]) -> list[ContainerSeen]:
        filters = {"label": [*self._ours(), *(f"{label}={value}" for label, value in wanted.items())]}
        found = self._client.containers(all=True, filters=filters)
        return [self._seen(one) for one in found if _well_labelled(one["Labels"])]

    def _ours(self) -> list[str]:
        """Docker's filter for this agent's containers."""
        return [f"{names.LABEL_AGENT}={self._node}", *names.LABELS]

    def _seen(self, found: dict[str, Any]) -> ContainerSeen:
        state, exit = str(found["State"]), None
        if state in ("exited", "dead"):
            with suppress(NotFound):
                raw = self._client.inspect_container(found["Id"])["State"]
                exit = _exit(found["Labels"][names.LABEL_KERNEL], int(found["Labels"][names.LABEL_ATTEMPT]), raw)
        return ContainerSeen(
            found["Labels"][names.LABEL_SESSION],
            found["Labels"][names.LABEL_KERNEL],
            int(found["Labels"][names.LABEL_ATTEMPT]),
            str(found["Id"]),
            "exited" if exit else ("created" if state == "created" else "running"),
            exit.exit_code if exit else None,
            exit.oom_killed if exit else False,
            [one for one in found["Labels"].get(names.LABEL_DEVICES, "").split(",") if one],
        )

    async def logs(self, container: ContainerSeen, *, follow: bool, tail: int | None = None) -> AsyncIterator[bytes]:
        def stream() -> Any:
            lines = "all" if tail is None else tail
            return self._streams.logs(container.container_id, stream=True, follow=follow, tail=lines)

        try:
            async for chunk in self._stream(stream):
                yield chunk
        except NotFound:
            return

    async def execute(self, container: ContainerSeen, command: list[str], timeout_s: float) -> ExecResult:
        out, err = bytearray(), bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                made = await self._call(lambda: self._client.exec_create(container.container_id, command)["Id"])
                opened = partial(self._streams.exec_start, made, stream=True, demux=True)
                async with aclosing(self._stream(opened)) as pieces:
                    async for pieces_out, pieces_err in pieces:
                        out += (pieces_out or b"")[: OUTPUT_CAP - len(out)]
                        err += (pieces_err or b"")[: OUTPUT_CAP - len(err)]
                code = (await self._call(lambda: self._client.exec_inspect(made)))["ExitCode"]
        except APIError as error:
            raise CreateRefused(_words(error)) from None
        return ExecResult(int(code or 0), out.decode(errors="replace"), err.decode(errors="replace"))

    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        ids = [container.container_id for container in containers]
        return await self._call(partial(self._gauges.read, ids))

    def _process(self, container_id: str) -> int | None:
        """Its first process, as the host numbers it; None if it does not run, or Docker is away."""
        with suppress(DockerException, requests.RequestException, OSError):
            return int(self._client.inspect_container(container_id)["State"]["Pid"]) or None
        return None

    async def exits(self) -> AsyncIterator[Exited]:
        told_ns = 0  # Docker's time of the last event that was passed on; asked for again after a break
        while not self._closing.is_set():
            try:
                async with aclosing(self._stream(partial(self._ends, told_ns))) as events:
                    async for event in events:
                        if event["timeNano"] <= told_ns:
                            continue
                        attributes = event["Actor"]["Attributes"]
                        if not _well_labelled(attributes):
                            continue
                        kernel_id, attempt = attributes[names.LABEL_KERNEL], int(attributes[names.LABEL_ATTEMPT])
                        state = await self._call(partial(self._final_state, event))
                        told_ns = event["timeNano"]
                        yield Exited(attributes[names.LABEL_SESSION], _exit(kernel_id, attempt, state))
            except (DockerException, requests.RequestException, OSError):
                pass
            await asyncio.sleep(0.5)

    def _ends(self, after_ns: int) -> Any:
        filters = {"type": "container", "event": ["die"], "label": self._ours()}
        return self._streams.events(since=after_ns // 1_000_000_000 or None, decode=True, filters=filters)

    def _final_state(self, event: dict[str, Any]) -> dict[str, Any]:
        """From the container; from the event alone if the container is gone already."""
        try:
            return dict(self._client.inspect_container(event["id"])["State"])
        except NotFound:
            return {"ExitCode": int(event["Actor"]["Attributes"].get("exitCode", 0)), "OOMKilled": False}

    async def tend(self) -> None:
        await asyncio.gather(self.namespaces.tend(), self._sweep_files())

    async def _sweep_files(self) -> None:
        """Files of containers that somebody else removed, or that went while the agent was away."""
        while True:
            with suppress(DockerException, requests.RequestException, OSError):
                await self._call(lambda: self.secret_files.sweep(self._attempts))
            await asyncio.sleep(_SWEEP_S)

    def _attempts(self) -> set[tuple[str, int]]:
        return {(one.kernel_id, one.attempt) for one in self._list({})}

    async def close(self) -> None:
        with suppress(DockerException, requests.RequestException, OSError):
            await self.namespaces.close()
        self._closing.set()
        for threads in (self._threads, self._stops):
            threads.shutdown(wait=False, cancel_futures=True)
        for client in (self._client, self._streams):
            client.close()

    async def _call(self, blocking: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, blocking)

    async def _stream(self, opened: Callable[[], Iterable[Any]]) -> AsyncGenerator[Any, None]:
        """Items of a blocking iterator, read by a thread of its own; its connection is closed with the generator."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=256)
        stopped = threading.Event()
        source: list[Any] = []

        def read() -> None:
            def put(item: Any) -> None:
                with suppress(RuntimeError):
                    asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

            try:
                source.append(opened())
                if stopped.is_set():
                    _hang_up(source)
                for item in source[0]:
                    if stopped.is_set():
                        return
                    put(item)
                put(_END)
            except Exception as error:
                if not stopped.is_set():
                    put(error)

        threading.Thread(target=read, daemon=True, name="docker-stream").start()
        try:
            while (item := await queue.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stopped.set()
            _hang_up(source)
            while not queue.empty():
                queue.get_nowait()


_END = object()


def _hang_up(source: list[Any]) -> None:
    """Wakes a thread that waits for the next item. What has ended already, or was never opened, needs nothing."""
    for stream in source:
        if isinstance(stream, CancellableStream):
            with suppress(OSError, AttributeError):
                stream.close()


def _exit(kernel_id: str, attempt: int, state: dict[str, Any]) -> KernelExit:
    return KernelExit(kernel_id, attempt, int(state["ExitCode"]), bool(state.get("OOMKilled")), at=time.time())


def _well_labelled(labels: dict[str, str]) -> bool:
    """What somebody labelled by hand with other words is not ours, and must not stop the reports of what is."""
    try:
        uuid.UUID(labels[names.LABEL_SESSION])
        uuid.UUID(labels[names.LABEL_KERNEL])
    except ValueError:
        return False
    return labels[names.LABEL_ATTEMPT].isdecimal()


def _words(error: APIError) -> str:
    return str(error.explanation or error)
