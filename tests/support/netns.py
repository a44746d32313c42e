"""Three machines in one: network namespaces with a Docker engine each, and a switch between them. Needs root.

A namespace is the network of a whole machine: its addresses, routes, rules and bridges; processes, files and memory are
shared. They are entered by `nsenter --net`: `ip netns exec` would hide the control groups from Docker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException

_READY_S = 60.0
_PREFIX = "lab"


class Node:
    """A machine of the lab. `address` is where the others reach it."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.name = f"n{number}"
        self.namespace = f"{lab.name}-{number}"
        self.cable = f"{lab.name}-{number}"  # its end at the switch
        self.address = f"{lab.subnet}.{10 + number}"
        self.folder = lab.folder / self.name
        self.socket = f"unix://{self.folder}/docker.sock"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lab = lab
        self._client: docker.APIClient | None = None

    def command(self, *command: str) -> list[str]:
        """The command, in the network of this machine."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}", *command]

    def run(self, *command: str) -> str:
        """What it printed."""
        return _run(*self.command(*command))

    def start(self, *command: str, env: Mapping[str, str] | None = None, log: str) -> subprocess.Popen[bytes]:
        """A process on it that dies with this one."""
        with (self.folder / log).open("ab") as file:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.command(*command)],
                env=dict(env or os.environ),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def boot(self) -> None:
        """Its Docker engine is being started, on files of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start(
            "dockerd",
            f"--data-root={self.folder}/data",
            f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/docker.pid",
            f"--host={self.socket}",
            "--log-level=warn",
            log="dockerd.log",
        )

    def engine(self) -> docker.APIClient:
        """A client that is kept; its engine has to answer."""
        if self._client is None:
            self._client = docker.APIClient(base_url=self.socket, version="auto", timeout=60)
        return self._client

    def until_ready(self) -> None:
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                self.engine()
                return
            except DockerException:
                words = (self.folder / "dockerd.log").read_text()[-1000:]
                assert time.monotonic() < deadline, f"no engine on {self.name}: {words}"
                time.sleep(0.05)

    def load(self, archive: bytes) -> None:
        self.until_ready()
        for _ in self.engine().load_image(archive):
            pass

    def cut(self) -> None:
        """Nothing reaches it and it reaches nothing, as if its cable were pulled."""
        self._lab.at_switch("ip", "link", "set", self.cable, "down")

    def heal(self) -> None:
        self._lab.at_switch("ip", "link", "set", self.cable, "up")

    def left(self) -> list[str]:
        """Containers, networks and devices of ours that are on it now."""
        client = self.engine()
        found = [f"container {one['Names'][0]}" for one in client.containers(all=True)]
        found += [f"network {one['Name']}" for one in client.networks() if one["Name"].startswith("moorage-")]
        links = [line.split(": ")[1].split("@")[0] for line in self.run("ip", "-o", "link").splitlines()]
        return sorted(found + [f"device {name}" for name in links if name.startswith("mr")])

    def halt(self) -> None:
        """Its containers and processes are gone, and what they had mounted."""
        with suppress(DockerException, OSError):
            client = self.engine()
            for one in client.containers(all=True):
                client.remove_container(one["Id"], force=True, v=True)
            client.close()
            self._client = None
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _unmount(self.folder)


class Lab:
    """`count` machines, their switch, and this machine at it: `host` is its address there."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        # The process in the name: what a killed one has left is told from what is in use.
        self.name = f"{_PREFIX}{os.getpid()}"
        self.folder = folder
        self.subnet = f"10.77.{os.getpid() % 256}"
        self.host = f"{self.subnet}.1"
        self.nodes = [Node(self, number) for number in range(1, count + 1)]
        self._switch = f"{self.name}-0"

    def start(self, images: Sequence[str]) -> None:
        """All engines answer and have the images, from the machine's own engine."""
        _remove_stale()
        self._wire()
        for node in self.nodes:
            node.boot()
        archive = subprocess.run(["docker", "save", *images], capture_output=True, check=True).stdout
        each(self.nodes, lambda node: node.load(archive))

    def stop(self) -> None:
        """Nothing of it is left: processes, mounts, namespaces with all that is in them, files."""
        each(self.nodes, Node.halt)
        for namespace in (self._switch, *(node.namespace for node in self.nodes)):
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def at_switch(self, *command: str) -> str:
        return _run(*self.switch_command(*command))

    def switch_command(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._switch}", *command]

    def _wire(self) -> None:
        """The switch is in a namespace too: this machine's rules don't see what passes between the others."""
        _run("ip", "netns", "add", self._switch)
        self.at_switch("ip", "link", "add", "switch", "type", "bridge")
        self.at_switch("ip", "link", "set", "switch", "up")
        plug = f"{self.name}-h"
        _run("ip", "link", "add", plug, "type", "veth", "peer", "name", "host", "netns", self._switch)
        self.at_switch("ip", "link", "set", "host", "master", "switch", "up")
        _run("ip", "addr", "add", f"{self.host}/24", "dev", plug)
        _run("ip", "link", "set", plug, "up")
        for node in self.nodes:
            _run("ip", "netns", "add", node.namespace)
            self.at_switch(
                "ip", "link", "add", node.cable, "type", "veth", "peer", "name", "eth0", "netns", node.namespace
            )
            self.at_switch("ip", "link", "set", node.cable, "master", "switch", "up")
            node.run("ip", "link", "set", "lo", "up")
            node.run("ip", "addr", "add", f"{node.address}/24", "dev", "eth0")
            node.run("ip", "link", "set", "eth0", "up")
            node.run("ip", "route", "add", "default", "via", self.host)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
    return done.stdout


def each(nodes: Sequence[Node], step: Callable[[Node], object]) -> None:
    """At the same time; the first failure is raised when all have ended."""
    failures: list[BaseException] = []

    def attempt(node: Node) -> None:
        try:
            step(node)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=attempt, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _unmount(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for point in sorted((one for one in mounted if one.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "-l", point], capture_output=True, check=False)


def _remove_stale() -> None:
    """Namespaces of labs whose process is dead; with them go their devices."""
    names = Path("/run/netns")
    for path in names.iterdir() if names.is_dir() else ():
        owner = path.name.removeprefix(_PREFIX).partition("-")[0]
        if path.name.startswith(_PREFIX) and owner.isdecimal() and not psutil.pid_exists(int(owner)):
            subprocess.run(["ip", "netns", "delete", path.name], capture_output=True, check=False)
