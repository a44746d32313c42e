"""A real session from submit to clean-up, shown with Moorage's own commands. Run by `make demo`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / ".moorage" / "demo"
MOOR = str(Path(sys.executable).with_name("moor"))
IMAGE = "moorage-python:1"
NAME = f"primes-{int(time.time())}"
EXPECTED = "17984"
PROGRAM = """
limit = 200_000
sieve = bytearray([1]) * limit
sieve[:2] = b"\\0\\0"
for number in range(2, int(limit**0.5) + 1):
    if sieve[number]:
        sieve[number * number :: number] = bytes(len(range(number * number, limit, number)))
print("primes below", limit, "=", sum(sieve))
"""


def main() -> int:
    os.environ["MOORAGE_CONFIG_DIR"] = str(DATA / "client")
    for name in ("MOORAGE_ENDPOINT", "MOORAGE_ACCESS_KEY", "MOORAGE_SECRET_KEY"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    here = ("--data-dir", str(DATA))
    try:
        moor("down", *here)
        if moor("up", *here, "--port", str(free_ports()), "--detach"):
            return 1
        story = show_a_session()
    finally:
        moor("down", *here)
    print(f"\n{'demo passed' if story else 'DEMO FAILED'} in {time.monotonic() - began:.1f} s")
    return 0 if story else 1


def show_a_session() -> bool:
    resources = ("--name", NAME, "--cpu", "1", "--mem", "256m")
    code, written = moor_output("run", IMAGE, *resources, "--", "python3", "-c", PROGRAM)
    print(f"exit code {code}")
    moor("events", NAME)
    moor("ps", "-a")
    clean = moor("check", "--data-dir", str(DATA))
    left = containers_left()
    print(f"containers of the session left on this machine: {left}")
    moor("status", "--data-dir", str(DATA))
    return code == 0 and written.split()[-1:] == [EXPECTED] and clean == 0 and left == 0


def moor(*arguments: str) -> int:
    announce(arguments)
    return subprocess.run([MOOR, *arguments], check=False).returncode


def moor_output(*arguments: str) -> tuple[int, str]:
    """Exit code and what it wrote to stdout, which is also shown as it comes."""
    announce(arguments)
    written = []
    with subprocess.Popen([MOOR, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  | {line}", end="", flush=True)
            written.append(line)
    return process.returncode, "".join(written)


def announce(arguments: tuple[str, ...]) -> None:
    words = [word if "\n" not in word else "'…'" for word in arguments]
    print(f"\n$ moor {' '.join(words)}", flush=True)


def containers_left() -> int:
    """Containers of this demo's session, whatever their state."""
    shown = subprocess.run([MOOR, "show", NAME, "--json"], check=True, capture_output=True, text=True).stdout
    found = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=moorage.session={json.loads(shown)['id']}"],
        check=True,
        capture_output=True,
        text=True,
    )
    return len(found.stdout.split())


def free_ports() -> int:
    """The first of a block of ports that nobody listens on: +0 to +2 and +10."""
    for first in range(18090, 30000, 20):
        if all(is_free(first + offset) for offset in (0, 1, 2, 10)):
            return first
    sys.exit("no free block of ports between 18090 and 30000")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
