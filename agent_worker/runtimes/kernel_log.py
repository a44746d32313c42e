"""What the kernel says of its kills for want of memory. Docker hears of them by an event, which it may miss."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_LOG = Path("/dev/kmsg")
_RECORD_BYTES = 8192  # the kernel gives one record with each read


def killed_for_memory(container_id: str, log: Path = _LOG) -> bool:
    """Whether a process of the container's control group was killed so. False where the agent may not read the log.

    Milliseconds: the kernel keeps its last few thousand records.
    """
    with suppress(OSError):
        descriptor = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _has(descriptor, container_id.encode())
        finally:
            os.close(descriptor)
    return False


def _has(descriptor: int, container_id: bytes) -> bool:
    while True:
        try:
            record = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return False
        except BrokenPipeError:  # what came next was overwritten; the one after it follows
            continue
        if not record:
            return False
        if b"oom-kill:" in record and container_id in record:
            return True
