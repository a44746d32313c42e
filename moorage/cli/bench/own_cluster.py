"""A cluster that lives as long as its benchmark, on data and ports of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moorage.cli.profile import Profile, read_toml
from moorage.cli.up.before import check_ports
from moorage.cli.up.part import tied_to
from moorage.cli.up.state import Place, Ports, read_run
from moorage.domain.errors import Conflict, Unavailable

_START_S = 90.0
_STOP_S = 60.0
_PORTS = range(24000, 30000, 100)


@dataclass(frozen=True, slots=True)
class OwnCluster:
    profile: Profile
    database_url: str
    temporal: str
    web_ui: str
    name: str
    pids: dict[str, int]  # of its parts


@contextmanager
def own_cluster(*, runtime: str) -> Iterator[OwnCluster]:
    """Started by `moor up` with one node, and stopped with its data removed, also when this process is killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="moorage-bench-") as folder:
        place = Place(Path(folder).resolve() / "data")
        place.make()
        options = [f"--data-dir={place.folder}", f"--port={_free_ports()}", f"--runtime={runtime}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MOORAGE_")}
        environment["MOORAGE_CONFIG_DIR"] = str(Path(folder) / "client")
        log = place.logs / "up.log"
        with (
            log.open("ab") as output,
            process("moorage.cli.main", "up", *options, env=environment, stdout=output, stderr=output) as child,
        ):
            yield _ready(place, child, log)


@contextmanager
def process(
    module: str,
    *arguments: str,
    env: dict[str, str] | None = None,
    stdout: object = None,
    stderr: object = None,
) -> Iterator[subprocess.Popen[str]]:
    """A Python process that ends with this one, and before this function does."""
    child: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,  # type: ignore[call-overload]
        stderr=stderr,
        env=env,
        text=True,
        start_new_session=True,
        preexec_fn=tied_to(os.getpid(), signal.SIGTERM),
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()


def first_word(child: subprocess.Popen[str]) -> str:
    """Its first line on stdout, which says that it works."""
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line:
        raise Unavailable("a process of the benchmark ended at once; what it said stands above")
    return line


def percentile(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)


def _ready(place: Place, child: subprocess.Popen[str], log: Path) -> OwnCluster:
    deadline = time.monotonic() + _START_S
    while child.poll() is None and time.monotonic() < deadline:
        record = read_run(place)
        if record is not None and record.pid == child.pid and record.ready:
            keys = read_toml(place.admin_file)
            profile = Profile(keys["endpoint"], keys["access_key"], keys["secret_key"])
            return OwnCluster(
                profile,
                record.database_url,
                record.temporal,
                record.web_ui,
                record.cluster,
                {part.name: part.pid for part in record.parts},
            )
        time.sleep(0.05)
    raise Unavailable(f"the benchmark's cluster did not start: {log.read_text()[-2000:].strip()}")


def _free_ports() -> int:
    for base in _PORTS:
        try:
            check_ports(Ports(base, 1))
        except Conflict:
            continue
        return base
    raise Unavailable(f"no free ports from {_PORTS.start} on")
