"""Docker. Blocking calls run in a bounded pool of threads; what Docker is told is made by pure functions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import CancellableStream, Mount
from docker.utils import kwargs_from_env

from agent_worker.metrics.gauges import Gauges
from agent_worker.metrics.reading import Readings
from agent_worker.runtimes import docker_files, docker_ports, docker_process
from agent_worker.runtimes.adoption import adopted, exit_of
from agent_worker.runtimes.archive import Owner
from agent_worker.runtimes.commits import Commits
from agent_worker.runtimes.container import container_name, environment, hardening, labels
from agent_worker.runtimes.contract import (
    Checked,
    Committed,
    CreateRefused,
    Exited,
    FileFound,
    ImageMissing,
    Runtime,
    RuntimeAway,
    Started,
    check_use,
)
from agent_worker.runtimes.devices import devices
from agent_worker.runtimes.docker_images import DockerImages
from agent_worker.runtimes.docker_logs import read_logs
from agent_worker.runtimes.egress import Egress
from agent_worker.runtimes.ends import Heard, final_state
from agent_worker.runtimes.engine import Engine
from agent_worker.runtimes.inspected import age_s, check_of, own_values, well_labelled, words_of
from agent_worker.runtimes.limits import limits, updated
from agent_worker.runtimes.namespaces import Namespaces
from agent_worker.runtimes.network_upkeep import tend
from agent_worker.runtimes.networks import Networks, network
from agent_worker.runtimes.one_file import write_file
from agent_worker.runtimes.process import Order, Process
from agent_worker.runtimes.secret_files import SecretFiles, first_file, user_of
from moorage.contracts import names
from moorage.contracts.accelerators import Reservation
from moorage.domain.images import tagged
from moorage.domain.node import ContainerSeen
from moorage.domain.resources import CPU, MEM
from moorage.domain.session import KernelExit, KernelSpec, NodeLossPolicy

_T = TypeVar("_T")
_THREADS = 16
# Grace periods are waited for in threads of their own: a hundred of them must not hold up a kill or a create.
_STOP_THREADS = 64
_SWEEP_S = 30.0


class DockerRuntime(Runtime):
    def __init__(
        self,
        agent_id: str,
        *,
        cluster: str = "moorage",
        namespaces: int = 0,
        egress_deny: Sequence[str] = (),
        engine: str = "",
    ) -> None:
        """`namespaces` are kept ready for the next starts. `engine` is its address, DOCKER_HOST's by default."""
        self._node = names.node_label(cluster, agent_id)
        address = kwargs_from_env() | ({"base_url": engine} if engine else {})
        self._client = docker.APIClient(version="auto", timeout=120, **address)
        self._engine = Engine(self._client)
        # A quiet event stream is no failure: no read timeout.
        self._streams = docker.APIClient(version=self._client.api_version, timeout=None, **address)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._stops = ThreadPoolExecutor(_STOP_THREADS, thread_name_prefix="docker-stop")
        self._closing = threading.Event()
        self.secret_files = SecretFiles(self._node)
        self._gauges = Gauges(self._process)
        self._commits = Commits(self._client, self._node)
        self.store = DockerImages(self._client, self._streams, self._call, self._stream)
        self.networks = Networks(self._client, cluster=cluster, node=self._node)
        self.egress = Egress(egress_deny)
        self.namespaces = Namespaces(
            self._client, self._node, size=namespaces, call=self._call, network=self.networks.shared
        )

    async def prepare(self) -> list[str]:
        warnings = [await self._call(self.egress.warning)]
        try:
            await self._call(self.networks.shared)
        except CreateRefused as error:
            warnings.append(str(error))
        return [warning for warning in warnings if warning]

    async def capacity(self) -> dict[str, int]:
        info = await self._call(self._client.info)
        return {CPU: int(info["NCPU"]) * 1000, MEM: max(0, int(info["MemTotal"]) - 512 * 1024**2)}

    async def create(self, spec: KernelSpec, reserved: Reservation | None = None) -> Started:
        held = reserved or Reservation()
        with self.namespaces.take(spec.hostname if spec.network is None else "") as namespace:
            try:
                return await self._call(lambda: self._create(spec, held, namespace))
            except CreateRefused:
                self.networks.forget()
                if namespace is None:
                    raise
            # It may be the namespace that was bad: Docker makes a new one.
            return await self._call(lambda: self._create(spec, held, None))

    def _create(self, spec: KernelSpec, reserved: Reservation, namespace: str | None) -> Started:
        with self.secret_files.written(spec) as mounts, self.networks.joined(spec) as joined:
            return self._create_with(spec, reserved, network(spec, namespace, joined), mounts)

    def _create_with(
        self,
        spec: KernelSpec,
        reserved: Reservation,
        told: tuple[dict[str, Any], dict[str, Any]],
        mounts: list[Mount],
    ) -> Started:
        name = container_name(spec.kernel_id, spec.attempt)
        for_container, for_host = told
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
            raise ImageMissing(words_of(error)) from None
        except APIError as error:
            if error.status_code != 409:
                raise CreateRefused(words_of(error)) from None
            there = self._client.inspect_container(name)
            started = adopted(there, spec, labels(spec, self._node))
            if started is not None:
                return started
            container_id = str(there["Id"])
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
        """Starts one that never ran."""
        try:
            self._client.start(container_id)
        except APIError as error:
            found = self._client.inspect_container(container_id)
            state = found["State"]
            if state["Status"] == "created" or state.get("Error"):
                with suppress(APIError):
                    self._client.remove_container(container_id, force=True, v=True)
                raise CreateRefused(words_of(error)) from None
            if state["Status"] == "exited":
                return Started(container_id, exit_of(spec.kernel_id, spec.attempt, container_id, state))
        return Started(container_id)

    async def stop(self, container: ContainerSeen, grace_s: float) -> KernelExit:
        def stop() -> KernelExit:
            with suppress(NotFound):
                if container.state != "exited":
                    self._end(container.container_id, grace_s)
                state = self._client.inspect_container(container.container_id)["State"]
                return exit_of(container.kernel_id, container.attempt, container.container_id, state)
            return KernelExit(container.kernel_id, container.attempt, None, gone=True, at=time.time())

        if grace_s > 0:
            return await asyncio.get_running_loop().run_in_executor(self._stops, stop)
        with self.namespaces.busy():
            return await self._call(stop)

    def _end(self, container_id: str, grace_s: float) -> None:
        """Returns when it runs no more."""
        if grace_s > 0:
            self._client.stop(container_id, timeout=round(grace_s))
        else:
            try:
                self._client.kill(container_id)
            except APIError as error:
                if error.status_code != 409:  # it does not run
                    raise
        self._client.wait(container_id, timeout=30)

    async def remove(self, container: ContainerSeen) -> None:
        def remove() -> None:
            with suppress(NotFound):
                try:
                    self._client.remove_container(container.container_id, force=True, v=True)
                except APIError as error:
                    if error.status_code != 409:  # its removal is under way
                        raise
                    self._until_gone(container.container_id)
            self.secret_files.remove(container.kernel_id, container.attempt)

        with self.namespaces.busy():
            await self._call(remove)
        await self._call(lambda: self.networks.leave(container.session_id, container.attempt))
        self._gauges.forget(container.container_id)

    def _until_gone(self, container_id: str) -> None:
        """Somebody else's removal; of one's own Docker answers when it is done. Ends with NotFound."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self._client.inspect_container(container_id)
            self._closing.wait(0.05)
        raise TimeoutError(f"container {container_id[:12]} is still there after 20 s")

    async def containers(self) -> list[ContainerSeen]:
        return await self._call(lambda: self._list({}))

    async def labelled(self, label: str) -> list[tuple[ContainerSeen, str]]:
        found = await self._call(lambda: self._client.containers(filters={"label": [*self._ours(), label]}))
        return [(self._seen(one), str(one["Labels"][label])) for one in found if well_labelled(one["Labels"])]

    async def write_file(self, container: ContainerSeen, path: str, text: str) -> None:
        await self._call(lambda: write_file(self._client, container.container_id, path, text))

    async def requeued_elsewhere(self) -> list[ContainerSeen]:
        wanted = {names.LABEL_ON_NODE_LOSS: str(NodeLossPolicy.REQUEUE)}
        found = await self._call(lambda: self._list(wanted))
        return [container for container in found if container.state == "running"]

    def _list(self, wanted: dict[str, str]) -> list[ContainerSeen]:
        filters = {"label": [*self._ours(), *(f"{label}={value}" for label, value in wanted.items())]}
        found = self._client.containers(all=True, filters=filters)
        return [self._seen(one) for one in found if well_labelled(one["Labels"])]

    def _ours(self) -> list[str]:
        """Docker's filter for this agent's containers."""
        return [f"{names.LABEL_AGENT}={self._node}", *names.LABELS]

    def _seen(self, found: dict[str, Any]) -> ContainerSeen:
        state, exit = str(found["State"]), None
        if state in ("exited", "dead"):
            with suppress(NotFound):
                raw = self._client.inspect_container(found["Id"])["State"]
                carried = found["Labels"]
                exit = exit_of(carried[names.LABEL_KERNEL], int(carried[names.LABEL_ATTEMPT]), str(found["Id"]), raw)
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

    async def update(self, container: ContainerSeen, slots: Mapping[str, int]) -> None:
        reading = (await self.measure([container])).containers.get(container.container_id)
        check_use(reading.mem if reading else None, slots)
        await self._call(lambda: updated(self._client, container.container_id, slots))

    async def commit(self, container: ContainerSeen, image: str) -> Committed:
        return await self._commits.commit(container.container_id, image, self._call)

    def logs(
        self, container: ContainerSeen, *, follow: bool, tail: int | None = None, since: str = "", stamps: bool = False
    ) -> AsyncIterator[bytes]:
        return read_logs(self._engine, container.container_id, follow=follow, tail=tail, since=since, stamps=stamps)

    async def attach(self, container: ContainerSeen, order: Order) -> Process:
        return await docker_process.begin(self._engine, container.container_id, order)

    async def checked(self) -> list[Checked]:
        filters = {"label": [*self._ours(), names.LABEL_HEALTH], "status": ["running"]}
        found = await self._call(lambda: self._client.containers(filters=filters))
        checks = [(one, check_of(one["Labels"])) for one in found if well_labelled(one["Labels"])]
        return [Checked(self._seen(one), check, age_s(one["Created"])) for one, check in checks if check]

    async def given(self, container: ContainerSeen) -> set[str]:
        def ask() -> set[str]:
            files = self.secret_files.contents(container.kernel_id, container.attempt)
            values = own_values(self._client, container.container_id)
            return values | {one.decode(errors="replace") for one in files}

        return await self._call(ask)

    async def find_file(self, container: ContainerSeen, path: str) -> FileFound:
        return await docker_files.find(self._engine, container.container_id, path)

    def download(self, container: ContainerSeen, path: str) -> AsyncIterator[bytes]:
        return docker_files.download(self._engine, container.container_id, path)

    async def upload(self, container: ContainerSeen, folder: str, archive: AsyncIterator[bytes]) -> None:
        owner = Owner(*await self._call(lambda: self._user_of(container.container_id)))
        await docker_files.upload(self._engine, container.container_id, folder, archive, owner)

    async def connect(self, container: ContainerSeen, port: int) -> docker_ports.Opened:
        return await docker_ports.connect(self._engine, container.container_id, port)

    async def measure(self, containers: Sequence[ContainerSeen]) -> Readings:
        ids = [container.container_id for container in containers]
        return await self._call(partial(self._gauges.read, ids))

    async def written(self) -> list[tuple[ContainerSeen, int]]:
        def look() -> list[tuple[ContainerSeen, int]]:
            found = self._client.containers(size=True, filters={"label": self._ours(), "status": "running"})
            return [(self._seen(one), int(one.get("SizeRw") or 0)) for one in found if well_labelled(one["Labels"])]

        return await self._call(look)

    def _process(self, container_id: str) -> int | None:
        """Its first process, as the host numbers it; None if it does not run, or Docker is away."""
        with suppress(DockerException, requests.RequestException, OSError):
            return int(self._client.inspect_container(container_id)["State"]["Pid"]) or None
        return None

    async def exits(self) -> AsyncIterator[Exited]:
        heard = Heard()
        while not self._closing.is_set():
            try:
                async with aclosing(self._stream(partial(self._ends, heard.since))) as events:
                    async for event in events:
                        if not heard.is_new(event):
                            continue
                        attributes = event["Actor"]["Attributes"]
                        if not well_labelled(attributes):
                            continue
                        kernel_id, attempt = attributes[names.LABEL_KERNEL], int(attributes[names.LABEL_ATTEMPT])
                        state = await self._call(partial(self._final_state, event))
                        heard.note(event)
                        yield Exited(attributes[names.LABEL_SESSION], exit_of(kernel_id, attempt, event["id"], state))
            except (DockerException, requests.RequestException, OSError):
                pass
            await asyncio.sleep(0.5)

    def _ends(self, since: int) -> Any:
        filters = {"type": "container", "event": ["die"], "label": self._ours()}
        return self._streams.events(since=since, decode=True, filters=filters)

    def _final_state(self, event: dict[str, Any]) -> dict[str, Any]:
        state = None
        with suppress(NotFound):
            state = self._client.inspect_container(event["id"])["State"]
        return final_state(event, state)

    async def tend(self) -> None:
        await asyncio.gather(self.namespaces.tend(), self._sweep_files(), tend(self.networks, self.egress, self._call))

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
            await self._call(self.networks.close)
        self._closing.set()
        self.secret_files.close()
        await self._engine.close()
        for threads in (self._threads, self._stops):
            threads.shutdown(wait=False, cancel_futures=True)
        for client in (self._client, self._streams):
            client.close()

    async def _call(self, blocking: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, blocking)
        except requests.ConnectionError as error:
            raise RuntimeAway(f"Docker does not answer: {error}") from error

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
