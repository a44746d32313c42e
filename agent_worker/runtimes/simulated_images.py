"""Images in memory. All are on the node, unlisted until they are pulled (else each node would seem to lack what it has
not run yet), but for these repositories:

`missing/…` is nowhere; `slow/NAME:SECONDS` is pulled in four layers over so long (2 s if the tag is no number);
`private/…` is given only to who has the password `right`; `broken/…` breaks off at each first try.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable

from agent_worker.images.contract import ConnectionBroken, Credential, Disk, ImageStore, InUse, Line, StoredImage
from agent_worker.runtimes.contract import PullFailed
from moorage.domain.images import pinned, tagged

_ABSENT = ("missing/", "slow/", "private/", "broken/")
_RIGHT = "right"
_LAYERS = 4
_LAYER_BYTES = 30_000_000


class SimulatedImages(ImageStore):
    def __init__(self) -> None:
        self._images: dict[str, StoredImage] = {}
        self._pulled: set[str] = set()
        self._removed: set[str] = set()
        self._used_by: dict[str, str] = {}  # container → image id
        self._tries: dict[str, int] = {}

    async def index(self) -> list[StoredImage]:
        return [one for name, one in self._images.items() if name in self._pulled]

    async def find(self, image: str) -> StoredImage | None:
        name = tagged(image)
        if name in self._images:
            return self._images[name]
        found = next((one for one in self._images.values() if name in one.digests), None)
        if found is not None or name.startswith(_ABSENT) or name in self._removed:
            return found
        return self._put(name)

    async def of_container(self, container_id: str) -> StoredImage | None:
        image_id = self._used_by.get(container_id)
        return next((one for one in self._images.values() if one.image_id == image_id), None)

    async def in_use(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for container_id, image_id in sorted(self._used_by.items()):
            found.setdefault(image_id, []).append(f"container {container_id}")
        return found

    async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
        name = tagged(image)
        if name.startswith("missing/"):
            raise PullFailed(f"pull access denied for {image}, repository does not exist")
        if name.startswith("private/") and (credential is None or credential.password != _RIGHT):
            raise PullFailed(f"pull access denied for {image}: unauthorized: authentication required")
        self._tries[name] = self._tries.get(name, 0) + 1
        layers = [f"{name}-{number}" for number in range(_LAYERS)]
        for layer in layers:
            said({"id": layer, "status": "Pulling fs layer", "progressDetail": {}})
        for number, layer in enumerate(layers):
            await self._load(layer, said, _seconds(name) / _LAYERS)
            if name.startswith("broken/") and self._tries[name] == 1 and number == 1:
                raise ConnectionBroken("unexpected EOF")
        self._removed.discard(name)
        self._put(name)
        self._pulled.add(name)

    async def _load(self, layer: str, said: Callable[[Line], None], seconds: float) -> None:
        for part in range(1, 6):
            detail = {"current": part * _LAYER_BYTES // 5, "total": _LAYER_BYTES}
            said({"id": layer, "status": "Downloading", "progressDetail": detail})
            await asyncio.sleep(seconds / 5)
        said({"id": layer, "status": "Pull complete", "progressDetail": {}})

    async def remove(self, name: str) -> bool:
        found = await self.find(name)
        if found is None:
            return False
        if users := (await self.in_use()).get(found.image_id):
            raise InUse(f"conflict: the image is being used by {users[0]}")
        for one in [*found.names, *found.digests]:
            self._images.pop(one, None)
            self._pulled.discard(one)
            self._removed.add(one)
        return True

    async def disk(self) -> Disk | None:
        return None

    def keep(self, image: str) -> None:
        """It is there without a pull: made of a container."""
        self._put(tagged(image))
        self._pulled.add(tagged(image))

    def use(self, container_id: str, image: str) -> None:
        """A container has it from now on."""
        name = tagged(image)
        self._used_by[container_id] = (self._images.get(name) or self._put(name)).image_id

    def let_go(self, container_id: str) -> None:
        self._used_by.pop(container_id, None)

    def _put(self, name: str) -> StoredImage:
        digest = name.partition("@")[2] or f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        names = () if "@" in name else (name,)
        size = _LAYERS * _LAYER_BYTES
        image = StoredImage(f"sha256:{digest[7:39]}{'0' * 32}", names, (pinned(name, digest),), size)
        self._images[name] = image
        return image


def _seconds(name: str) -> float:
    if not name.startswith("slow/"):
        return 0.0
    tag = name.rpartition(":")[2]
    return float(tag) if tag.replace(".", "", 1).isdecimal() else 2.0
