"""One small text file in a container."""

from __future__ import annotations

import io
import tarfile
import time

import docker
from docker.errors import NotFound


def write_file(client: docker.APIClient, container_id: str, path: str, text: str) -> None:
    """Folders on the way are made there, and all users in it may read the file. Without text: emptied, if it is there.

    Docker unpacks it within the container's own root, wherever links there lead.
    """
    if not text and not _is_there(client, container_id, path):
        return
    client.put_archive(container_id, "/", _archive_of(path, text))


def _is_there(client: docker.APIClient, container_id: str, path: str) -> bool:
    try:
        chunks, _ = client.get_archive(container_id, path)
    except NotFound:
        return False
    chunks.close()
    return True


def _archive_of(path: str, text: str) -> bytes:
    content, made = text.encode(), io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.size, entry.mode, entry.mtime = len(content), 0o644, int(time.time())
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()
