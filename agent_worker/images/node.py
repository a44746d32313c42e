"""The images of a node: pulled for sessions and ahead of them, removed when asked, collected when old or in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from temporalio import activity
from temporalio.exceptions import ApplicationError

from agent_worker.images.collect import to_remove
from agent_worker.images.contract import Credential, ImageStore, InUse, NoRoom, StoredImage
from agent_worker.images.pulls import Pulls
from agent_worker.images.uses import Uses
from agent_worker.runtimes.contract import ImageMissing, PullFailed
from moorage import log
from moorage.contracts import images as contract
from moorage.contracts.activities import Pulled, PullImage, PullMode
from moorage.contracts.images import NodeImageActivities, RemoveImage
from moorage.domain.images import digest_of, registry_of, tagged
from moorage.domain.pulls import NodeImage, PullProgress

_LOOK_EVERY_S = 60.0
_MOST_TOLD = 1000
_ABOUT_CREDENTIALS = ("authentication", "credentials", "denied", "unauthorized", "forbidden")

_log = log.get("images")


class NodeImages(NodeImageActivities):
    """Of one node. Removing what a session wants next is no fault: the session's own step pulls it again."""

    def __init__(
        self,
        store: ImageStore,
        file: Path | None = None,
        *,
        max_age_h: float = 0.0,
        disk_percent: float = 0.0,
        changed: asyncio.Event | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Collected are images unused for `max_age_h`, and others while the disk is fuller than that; 0 is never.

        `changed` is set when the node has other images than before.
        """
        self._store = store
        self._uses = Uses(file, clock)
        self._pulls = Pulls(store)
        self._max_age_s = max_age_h * 3600
        self._disk_percent = disk_percent
        self._changed = changed or asyncio.Event()
        self._clock = clock

    def have_changed(self) -> None:
        """By somebody else: the node tells at once."""
        self._changed.set()

    async def pull(self, order: PullImage) -> Pulled:
        """As the order's mode says. ImageMissing if it was only to be looked for; PullFailed, NoRoom."""
        image = tagged(order.image)
        found = None if order.mode == PullMode.ALWAYS else await self._store.find(image)
        if found is None and order.mode == PullMode.LOOK:
            raise ImageMissing(f"No such image: {image}")
        if found is None:
            found = await self._pulled(image, Credential(order.username, order.password) if order.username else None)
        return Pulled(found.image_id, digest_of(image, found.digests))

    async def _pulled(self, image: str, credential: Credential | None) -> StoredImage:
        try:
            await self._pulls.pull(image, credential)
        except PullFailed as error:
            raise PullFailed(_explained(str(error), image, credential)) from None
        except NoRoom:
            if not await self.collect(pressed=True):
                raise
            await self._pulls.pull(image, credential)
        found = await self._store.find(image)
        if found is None:
            raise ImageMissing(f"No such image: {image}; somebody removed it just after it was pulled")
        self._uses.pulled(image, found.image_id)
        self._changed.set()
        return found

    def progress(self) -> list[PullProgress]:
        """Of all pulls under way."""
        return self._pulls.progress()

    def progress_of(self, image: str) -> PullProgress:
        return self._pulls.progress_of(tagged(image))

    async def ran(self, container_id: str, image: str) -> Pulled:
        """What a container that was just made really runs; it counts as used now."""
        found = await self._store.of_container(container_id)
        if found is None:
            return Pulled("")
        self._uses.used([found.image_id])
        return Pulled(found.image_id, digest_of(image, found.digests))

    @activity.defn
    async def remove_image(self, order: RemoveImage) -> bool:
        image = tagged(order.image)
        found = await self._store.find(image)
        if found is None:
            return False
        users = (await self._store.in_use()).get(found.image_id)
        try:
            if users:
                raise InUse(f"{image} is used by {', '.join(users[:5])}" + (" and more" if len(users) > 5 else ""))
            gone = await self._store.remove(image)
            self._changed.set()
            return gone
        except InUse as error:
            raise ApplicationError(str(error), type=contract.IMAGE_IN_USE, non_retryable=True) from None

    async def names(self) -> list[str]:
        """What the images on the node are asked for by: name and tag, or name and digest; sorted."""
        return _names(await self._store.index())

    async def seen(self) -> tuple[list[str], list[NodeImage]]:
        """(the names, each image under its names). What has no tag has its digest for one."""
        images = await self._store.index()
        ours = self._uses.of_pulled()
        found = [
            NodeImage(
                name,
                image.image_id,
                digest_of(name, image.digests),
                image.size,
                self._uses.last_used(image.image_id),
                name in ours and ours[name].image_id == image.image_id,
            )
            for image in images
            for name in image.names or image.digests
        ]
        return _names(images), sorted(found, key=lambda one: one.name)[:_MOST_TOLD]

    async def tend(self) -> None:
        """Collects what is old or in the way, until cancelled."""
        while True:
            try:
                await self.collect()
            except Exception as error:  # Docker may be away; the next round looks again
                _log.warning("images not collected", error=str(error)[:200])
            await asyncio.sleep(_LOOK_EVERY_S)

    async def collect(self, *, pressed: bool = False) -> list[str]:
        """One look. Returns the names that were removed; `pressed`: as if the disk were too full, one at least."""
        images, in_use = await self._store.index(), await self._store.in_use()
        self._uses.used(in_use)
        self._uses.keep(
            {name for image in images for name in (*image.names, *image.digests)}, {image.image_id for image in images}
        )
        self._uses.save()
        ours, now = self._uses.of_pulled(), self._clock()
        old = to_remove(images, in_use, ours, now=now, max_age_s=self._max_age_s)
        removed = [name for name in old if await self._removed(name, "unused for too long")]
        for name in to_remove(images, in_use, ours, now=now, pressed=True):
            if not (pressed and not removed) and not await self._is_full():
                break
            if name not in old and await self._removed(name, "the disk is full"):
                removed.append(name)
        return removed

    async def _removed(self, name: str, why: str) -> bool:
        try:
            gone = await self._store.remove(name)
        except InUse:  # a container was made of it just now
            return False
        if gone:
            self._changed.set()
            _log.info("image collected", image=name, why=why)
        return gone

    async def _is_full(self) -> bool:
        disk = await self._store.disk() if self._disk_percent else None
        return disk is not None and disk.percent > self._disk_percent


def _names(images: Iterable[StoredImage]) -> list[str]:
    return sorted({name for image in images for name in (*image.names, *image.digests)})


def _explained(words: str, image: str, credential: Credential | None) -> str:
    """A registry says `unauthorized` and no more: to whom, and what would help."""
    said = words if image in words else f"{image}: {words}"
    if not any(one in words.lower() for one in _ABOUT_CREDENTIALS):
        return said
    host = registry_of(image)
    if credential is None:
        return f"{said}; there are no credentials for registry {host}: moor admin registry add {host}"
    return f"{said}; registry {host} does not take the credentials of {credential.username} for it"
