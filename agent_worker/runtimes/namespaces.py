"""Network namespaces made ahead of need: making one is more than half of what a container's start costs.

Each is held by a container that only waits, and serves one session container. Those that no container uses are removed,
whoever made them: what a killed agent leaves behind is found by its label.
"""

from __future__ import annotations

import asyncio
import io
import platform
import struct
import tarfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from moorage import log
from moorage.contracts import names

IMAGE = "moorage-namespace:1"
HOSTNAME = "main1"  # a container shares the name of the namespace it joins
# After the last start or stop; making namespaces must not slow down sessions.
_QUIET_S = 0.15
_SWEEP_S = 10.0
# pause(2) for ever. Elsewhere nothing is made ahead, and containers get their namespace from Docker at their start.
_WAIT_FOR_EVER = {"x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7"))}

_log = log.get("namespaces")


class Namespaces:
    """`node` is the value of their label; `call` runs a blocking function in a thread; `network` names theirs."""

    def __init__(
        self,
        client: Any,
        node: str,
        *,
        size: int,
        call: Callable[[Callable[[], Any]], Any],
        network: Callable[[], str],
    ) -> None:
        self._client = client
        self._network = network
        self._node = node
        self._size = size if platform.machine() in _WAIT_FOR_EVER else 0
        self._call = call
        self._ready: deque[str] = deque()
        self._taken: set[str] = set()
        self._at_work = 0
        self._worked_at = 0.0
        self._woken = asyncio.Event()

    @contextmanager
    def take(self, hostname: str) -> Iterator[str | None]:
        """One for a container that is being made, or None; with `busy`. From then on it lives as long as that does."""
        found = self._ready.popleft() if self._ready and hostname == HOSTNAME else None
        if found is not None:
            self._taken.add(found)
        try:
            with self.busy():
                yield found
        finally:
            self._taken.discard(found or "")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Upkeep waits while containers are made or removed."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1
            self._worked_at = time.monotonic()
            self._woken.set()

    async def tend(self) -> None:
        """Upkeep for ever: after each start and stop, and every 10 s."""
        while True:
            try:
                await self.upkeep()
            except (DockerException, requests.RequestException, OSError) as error:
                _log.warning("no namespaces are made ahead", error=str(error)[:200])
            self._woken.clear()
            # Not wait_for: before Python 3.12 it loses a cancel that comes with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_S):
                    await self._woken.wait()

    async def upkeep(self) -> None:
        """Those that nobody uses are removed, and as many as wanted are ready."""
        await self._until_quiet()
        await self._call(self._sweep)
        while len(self._ready) < self._size:
            await self._until_quiet()
            self._ready.append(await self._call(self._make))

    async def close(self) -> None:
        """Those that no container uses are removed."""
        unused = list(self._ready)
        self._ready.clear()
        await asyncio.gather(*(self._call(partial(self._remove, one)) for one in unused))
        await self._call(self._sweep)

    async def _until_quiet(self) -> None:
        while self._at_work or time.monotonic() - self._worked_at < _QUIET_S:  # noqa: ASYNC110 (quiet is no event)
            await asyncio.sleep(_QUIET_S)

    def _sweep(self) -> None:
        label = f"{names.LABEL_NAMESPACE}={self._node}"
        found = self._client.containers(all=True, filters={"label": label})
        held = {one["Id"] for one in found}
        running = {one["Id"] for one in found if one["State"] == "running"}
        # A restart of Docker ends those that wait, or somebody removed them.
        for dead in set(self._ready) - running:
            with suppress(ValueError):  # taken meanwhile
                self._ready.remove(dead)
        label = f"{names.LABEL_AGENT}={self._node}"
        users = self._client.containers(all=True, filters={"label": label})
        used = {str(one["HostConfig"]["NetworkMode"]).removeprefix("container:") for one in users}
        for unused in held - used - self._taken - set(self._ready):
            self._remove(unused)

    def _make(self) -> str:
        arguments = {
            "command": ["/wait"],
            "hostname": HOSTNAME,
            "user": "65534:65534",
            "stop_signal": "SIGKILL",  # deaf to all others, it would hold up each restart of Docker for 10 s
            "labels": {names.LABEL_NAMESPACE: self._node},
            "host_config": self._client.create_host_config(
                network_mode=self._network(), cap_drop=["ALL"], security_opt=["no-new-privileges"], read_only=True
            ),
        }
        try:
            made = self._client.create_container(IMAGE, **arguments)["Id"]
        except ImageNotFound:
            self._client.import_image_from_data(_image(), repository=IMAGE.split(":")[0], tag=IMAGE.split(":")[1])
            made = self._client.create_container(IMAGE, **arguments)["Id"]
        self._client.start(made)
        return str(made)

    def _remove(self, container_id: str) -> None:
        with suppress(NotFound):
            try:
                self._client.remove_container(container_id, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # its removal is under way
                    raise


def _image() -> bytes:
    """A file system of one program."""
    program = _program(*_WAIT_FOR_EVER[platform.machine()])
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo("wait")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))
    return archive.getvalue()


def _program(machine: int, code: bytes) -> bytes:
    """The smallest ELF64 executable: header, one loadable segment, the code. Source: the ELF-64 object file format."""
    header_size, entry_size, base = 64, 56, 0x400000
    size = header_size + entry_size + len(code)
    start = base + header_size + entry_size
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    counts = (header_size, entry_size, 1, 0, 0, 0)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, start, header_size, 0, 0, *counts)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + code
