"""The host's own programs for networks: ip and bridge (iproute2), and iptables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

_LONGEST_S = 20.0
# Where they lie on hosts whose PATH for services lacks them.
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class ProgramFailed(Exception):
    """Its own words, or that it is missing and where it comes from."""


def run(command: Sequence[str], *, package: str, input: str = "") -> str:
    """What it printed. `package` has the program. It works in the network namespace of this process."""
    environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C"}
    try:
        ended = subprocess.run(
            command, input=input, capture_output=True, text=True, timeout=_LONGEST_S, check=False, env=environment
        )
    except FileNotFoundError:
        raise ProgramFailed(f"the program {command[0]} is missing on this node; install {package}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramFailed(f"{command[0]} could not be run: {str(error)[:200]}") from None
    if ended.returncode != 0:
        words = " ".join((ended.stderr or ended.stdout).split())[:300]
        raise ProgramFailed(f"{' '.join(command[:4])} failed: {words or f'exit code {ended.returncode}'}")
    return ended.stdout
