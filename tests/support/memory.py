"""Where the tests' files lie: in memory, if there is plenty. No test asks what a flush to the disk would prove."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil

_MEMORY = Path("/dev/shm")
# A whole run leaves about 1 GiB behind until it ends; more than that goes to PostgreSQL's and Temporal's files.
_ENOUGH = 6 * 1024**3


def move_to_memory() -> None:
    """Temporary files of this process and of its children, unless TMPDIR says where they belong.

    In a folder of its own: whoever begins another run takes the rights of others from the folder that runs share, and
    PostgreSQL, which runs as another user, would not find its data any more.
    """
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK):
        return
    if min(psutil.disk_usage(str(_MEMORY)).free, psutil.virtual_memory().available) > _ENOUGH:
        own = tempfile.mkdtemp(prefix="moorage-tests-", dir=_MEMORY)
        Path(own).chmod(0o711)
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        os.environ["TMPDIR"] = tempfile.tempdir = own
