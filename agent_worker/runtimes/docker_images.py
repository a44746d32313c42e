"""Images in Docker: looked for, pulled, removed. Blocking calls run where the runtime's own do."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from agent_worker.images.contract import (
    ConnectionBroken,
    Credential,
    Disk,
    ImageStore,
    InUse,
    Line,
    NoRoom,
    StoredImage,
)
from agent_worker.runtimes.contract import PullFailed
from moorage.contracts import names
from moorage.domain.images import is_pinned, tagged

_T = TypeVar("_T")
_REMEMBERED_S = 60.0
# What a registry says that will say the same the next time. All else may be the way to it.
_FINAL = (
    "access denied",
    "authentication required",
    "denied:",
    "does not exist",
    "forbidden",
    "incorrect username or password",
    "invalid reference format",
    "manifest unknown",
    "name unknown",
    "no basic auth credentials",
    "no matching manifest",
    "not found",
    "unauthorized",
    "unsupported",
)


class Call(Protocol):
    """Runs a blocking call in a thread."""

    async def __call__(self, blocking: Callable[[], _T]) -> _T: ...


Stream = Callable[[Callable[[], Iterable[Any]]], AsyncGenerator[Any, None]]


class DockerImages(ImageStore):
    def __init__(self, client: docker.APIClient, streams: docker.APIClient, call: Call, stream: Stream) -> None:
        """`streams` is a client without a read timeout."""
        self._client = client
        self._streams = streams
        self._call = call
        self._stream = stream
        self._root: Path | None = None
        self._known: dict[str, tuple[StoredImage, float]] = {}  # by id, and when it was looked at (monotonic)

    async def index(self) -> list[StoredImage]:
        return [_stored(one) for one in await self._call(self._client.images)]

    async def find(self, image: str) -> StoredImage | None:
        name = tagged(image)
        if name.startswith("sha256:"):  # an id, not a name
            return None
        try:
            return _stored(await self._call(lambda: self._client.inspect_image(name)))
        except ImageNotFound:
            return None

    async def of_container(self, container_id: str) -> StoredImage | None:
        def look() -> StoredImage | None:
            with suppress(NotFound):  # ImageNotFound is one too
                found = self._client.inspect_container(container_id)
                return self._by_id(str(found["Image"]))
            return None

        return await self._call(look)

    def _by_id(self, image_id: str) -> StoredImage:
        """From memory for a minute: each start asks, and an id stands for the same content for ever."""
        known, at = self._known.get(image_id, (None, 0.0))
        if known is None or time.monotonic() - at > _REMEMBERED_S:
            known = _stored(self._client.inspect_image(image_id))
            self._known[image_id] = known, time.monotonic()
        return known

    async def in_use(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in await self._call(lambda: self._client.containers(all=True)):
            found.setdefault(str(one["ImageID"]), []).append(_user(one))
        return {image_id: sorted(users) for image_id, users in found.items()}

    async def pull(self, image: str, said: Callable[[Line], None], credential: Credential | None = None) -> None:
        repository, tag = _repository_and_tag(image)
        auth = {"username": credential.username, "password": credential.password} if credential else None
        try:
            opened = self._stream(
                lambda: self._streams.pull(repository, tag=tag, stream=True, decode=True, auth_config=auth)
            )
            async with aclosing(opened) as lines:
                async for line in lines:
                    if "error" in line:
                        raise refusal(str(line["error"]))
                    said(line)
            self._known.clear()
        except APIError as error:
            raise refusal(str(error.explanation or error)) from None
        except (DockerException, requests.RequestException, OSError) as error:
            raise ConnectionBroken(f"Docker broke off: {error}"[:500]) from None

    async def remove(self, name: str) -> bool:
        self._known.clear()
        try:
            await self._call(lambda: self._client.remove_image(name))
        except ImageNotFound:
            return False
        except APIError as error:
            if error.status_code == 409:
                raise InUse(str(error.explanation or error)) from None
            raise
        return True

    async def disk(self) -> Disk | None:
        try:
            if self._root is None:
                self._root = Path((await self._call(self._client.info))["DockerRootDir"])
            usage = await asyncio.to_thread(shutil.disk_usage, self._root)
        except OSError:  # Docker is on another machine
            return None
        return Disk(usage.used, usage.used + usage.free)


def refusal(words: str) -> PullFailed | ConnectionBroken | NoRoom:
    """What Docker's words about a pull mean."""
    lower = words.lower()
    if "no space left on device" in lower:
        return NoRoom(words)
    if any(one in lower for one in _FINAL):
        return PullFailed(words)
    return ConnectionBroken(words)


def _stored(found: dict[str, Any]) -> StoredImage:
    return StoredImage(
        str(found["Id"]),
        tuple(sorted(tag for tag in found.get("RepoTags") or () if tag != "<none>:<none>")),
        tuple(sorted(one for one in found.get("RepoDigests") or () if one != "<none>@<none>")),
        int(found.get("Size") or 0),
    )


def _user(container: dict[str, Any]) -> str:
    """`session 0192…` for one of ours or another cluster's, else the container's own name."""
    session = (container.get("Labels") or {}).get(names.LABEL_SESSION)
    if session:
        return f"session {session}"
    return f"container {next(iter(container.get('Names') or []), str(container['Id'])[:12]).lstrip('/')}"


def _repository_and_tag(image: str) -> tuple[str, str | None]:
    """`latest` unless the image names a tag or a digest."""
    if is_pinned(image):
        return image, None
    head, _, tail = image.rpartition(":")
    return (head, tail) if head and "/" not in tail else (image, "latest")
