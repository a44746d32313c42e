"""A Docker engine of the test's own, in a network namespace of its own, on a small disk: to be restarted and filled."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import docker
import psutil
import pytest
from docker.errors import DockerException

from tests.agent.specs import IMAGE


class OwnEngine:
    """Its data lies in memory: `megabytes` is what its disk holds."""

    def __init__(self, *, megabytes: int = 200) -> None:
        if os.geteuid() != 0 or shutil.which("dockerd") is None:
            pytest.fail("an engine of its own needs root and dockerd")
        self._folder = folder = Path(tempfile.mkdtemp(prefix="moorage-engine-"))
        self._namespace = f"moorage-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None
        self.disk = folder / "data"
        self.address = f"unix://{folder}/docker.sock"
        self.disk.mkdir(parents=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.disk))
        _run("ip", "netns", "add", self._namespace)
        _run("ip", "-n", self._namespace, "link", "set", "lo", "up")
        self.start()
        image = subprocess.run(["docker", "save", IMAGE], capture_output=True, check=True).stdout
        self.client.load_image(image)

    def start(self) -> None:
        """It answers."""
        with (self._folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self._namespace}", "dockerd", "--data-root", str(self.disk),
                 "--exec-root", str(self._folder / "exec"), "--pidfile", str(self._folder / "dockerd.pid"),
                 "--host", self.address, "--storage-driver", "overlay2"],
                stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "dockerd does not answer within a minute"

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Asked, it ends its containers first; killed, they go on, until its successor ends them."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(60)
        # Nobody here buries the engine's orphans, and a successor takes the dead for living.
        for file in ("dockerd.pid", "exec/containerd/containerd.pid"):
            (self._folder / file).unlink(missing_ok=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte more goes on its disk meanwhile: what is given up there is taken at once."""
        done, filled = threading.Event(), threading.Event()

        def fill() -> None:
            with (self.disk / "filling").open("wb", buffering=0) as file:
                size = 1024 * 1024
                while not done.is_set():
                    try:
                        file.write(bytes(size))
                    except OSError:
                        size = max(512, size // 2)
                        if size == 512:
                            filled.set()
                            done.wait(0.002)

        filling = threading.Thread(target=fill)
        filling.start()
        filled.wait(30)
        try:
            yield
        finally:
            done.set()
            filling.join()
            (self.disk / "filling").unlink()

    @contextmanager
    def registry_that_never_answers(self) -> Iterator[str]:
        """host:port. It listens where the engine is, takes connections and says nothing."""
        program = "import socket, sys; s = socket.create_server(('127.0.0.1', 5000)); print(1, flush=True); input()"
        inside = ["nsenter", f"--net=/run/netns/{self._namespace}", sys.executable, "-c", program]
        with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield "127.0.0.1:5000"
            process.kill()

    def containers_of(self, session_id: str) -> list[str]:
        found = self.client.containers(all=True, filters={"label": f"moorage.session={session_id}"})
        return [str(one["Id"]) for one in found]

    def close(self) -> None:
        """Nothing of it is left, whatever a failed test has left of it."""
        self.client.close()
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self._folder) in word for word in process.info["cmdline"] or ()):
                _kill(process)
        if self._process is not None:
            self._process.wait(10)
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for place in reversed([line.split()[1] for line in mounts if str(self._folder) in line.split()[1]]):
            _run("umount", "--lazy", place)
        _run("ip", "netns", "del", self._namespace)
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        try:
            self.client = docker.APIClient(self.address, version="auto", timeout=30)
        except DockerException:
            time.sleep(0.05)
            return False
        return True


def _kill(process: psutil.Process) -> None:
    """With what it has begun: a container's shim says whose it is, its program doesn't."""
    with suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
