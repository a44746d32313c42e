"""An image of a container: what it wrote, and of its configuration nothing.

Docker's own commit bakes the container's variables and labels into the image, in two places, and has no way to leave
them out. So the image that it makes is a temporary one, and the real one is made of the same layers and the
configuration of the image that the container was made of.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import docker
from docker.errors import APIError, ImageNotFound

from agent_worker.runtimes.contract import CommitRefused, Committed, check_owner
from moorage.contracts import names

_OURS = "moorage."


class Commits:
    """Of one node, one at a time: two of the same name take turns."""

    def __init__(self, client: docker.APIClient, node: str) -> None:
        self._client = client
        self._node = node
        self._turn = asyncio.Lock()

    async def commit(self, container_id: str, image: str, call: Callable[[Callable[[], Committed]], Any]) -> Committed:
        """`call` runs it in a thread."""
        async with self._turn:
            made: Committed = await call(lambda: self._commit(container_id, image))
            return made

    def _commit(self, container_id: str, image: str) -> Committed:
        self.sweep()
        try:
            container = self._client.inspect_container(container_id)
            user = str((container["Config"].get("Labels") or {}).get(names.LABEL_USER, ""))
            check_owner(image, self._owner(image), user)
            temporary = str(self._client.commit(container_id, pause=True)["Id"])
            try:
                layers = self._client.inspect_image(temporary)
                origin = self._client.inspect_image(container["Image"])["Config"] or {}
                return self._load(archive(image, layers, clean(origin, user)), image)
            finally:
                self._remove(temporary)
        except APIError as error:
            raise CommitRefused(str(error.explanation or error)) from None

    def _owner(self, image: str) -> str | None:
        """Who committed what has the name now; None if nothing has it."""
        try:
            found = self._client.inspect_image(image)
        except ImageNotFound:
            return None
        return str(((found["Config"] or {}).get("Labels") or {}).get(names.LABEL_COMMITTED_BY, ""))

    def _load(self, content: bytes, image: str) -> Committed:
        for line in self._client.load_image(content):
            if "error" in line:
                raise CommitRefused(str(line["error"]))
        made = self._client.inspect_image(image)
        return Committed(str(made["Id"]), int(made["Size"]))

    def sweep(self) -> None:
        """Temporary images of an agent that died on the way: they carry a container's labels, and its variables."""
        ours = {"dangling": True, "label": f"{names.LABEL_AGENT}={self._node}"}
        for left in self._client.images(filters=ours):
            self._remove(str(left["Id"]))

    def _remove(self, image_id: str) -> None:
        with suppress(APIError):
            self._client.remove_image(image_id, force=True)


def clean(origin: Mapping[str, Any], user: str) -> dict[str, Any]:
    """The configuration of the image that the container was made of, and whose the new one is."""
    labels = {name: value for name, value in (origin.get("Labels") or {}).items() if not name.startswith(_OURS)}
    return {**origin, "Labels": {**labels, names.LABEL_COMMITTED_BY: user}}


def archive(image: str, layers: Mapping[str, Any], config: Mapping[str, Any]) -> bytes:
    """What `docker load` takes. The layers are there already, and it doesn't ask for their content."""
    digests = layers["RootFS"]["Layers"]
    created = {"created": layers["Created"]}
    described = {
        **created,
        "architecture": layers["Architecture"],
        "os": layers["Os"],
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": [{**created, "created_by": "moor commit"} for _ in digests],
    }
    manifest = [
        {"Config": "config.json", "RepoTags": [image], "Layers": [f"{n}/layer.tar" for n in range(len(digests))]}
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, value in (("config.json", described), ("manifest.json", manifest)):
            content = json.dumps(value).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()
