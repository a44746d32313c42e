"""One pull for each image at a time, however many ask for it; what breaks is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agent_worker.images.contract import ConnectionBroken, Credential, ImageStore, Line
from agent_worker.images.progress import Layers
from agent_worker.runtimes.contract import PullFailed
from moorage import log
from moorage.domain.pulls import PullProgress

# Waits of 0.5, 1, 2 and 4 s lie between five tries: a registry that restarts is back by then.
_TRIES = 5
_FIRST_WAIT_S = 0.5
# No line of any pull on this node for so long: Docker itself waits for ever for a registry that says nothing. One that
# is silent because others use all of Docker's downloads hears theirs.
_STALLED_S = 300.0

_log = log.get("images")


@dataclass(slots=True)
class _Pull:
    image: str
    layers: Layers = field(default_factory=Layers)
    note: str = ""
    patience: asyncio.Timeout | None = None
    task: asyncio.Task[None] | None = None


class Pulls:
    """Of one node. What was begun goes on to its end, whoever stops waiting for it: the image is wanted here."""

    def __init__(
        self,
        store: ImageStore,
        *,
        stalled_s: float = _STALLED_S,
        wait: Callable[[float], Awaitable[None]] | None = None,
    ) -> None:
        self._store = store
        self._stalled_s = stalled_s
        self._wait = wait or asyncio.sleep
        self._running: dict[tuple[str, Credential | None], _Pull] = {}

    async def pull(self, image: str, credential: Credential | None = None) -> None:
        """The image is on the node. PullFailed with the registry's words, or NoRoom."""
        key = (image, credential)
        pull = self._running.get(key)
        if pull is None or pull.task is None:
            pull = self._running[key] = _Pull(image)
            pull.task = asyncio.create_task(self._to_the_end(pull, credential))
            pull.task.add_done_callback(lambda task: self._is_over(key, task))
        await asyncio.shield(pull.task)

    def progress(self) -> list[PullProgress]:
        """Of all that are under way."""
        return [_progress(one) for one in self._running.values()]

    def progress_of(self, image: str) -> PullProgress:
        return next((one for one in self.progress() if one.image == image), PullProgress(image))

    def _is_over(self, key: tuple[str, Credential | None], task: asyncio.Task[None]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # it was told to whoever still waited

    async def _to_the_end(self, pull: _Pull, credential: Credential | None) -> None:
        for number in range(1, _TRIES + 1):
            try:
                await self._try(pull, credential)
                return
            except (ConnectionBroken, TimeoutError) as error:
                words = str(error) or f"the registry said nothing for {self._stalled_s:g} s"
                if number == _TRIES:
                    raise PullFailed(f"{words} (tried {_TRIES} times)") from None
                # Many nodes may have lost the same registry: they come back one after the other.
                wait_s = _FIRST_WAIT_S * 2 ** (number - 1) * random.uniform(0.75, 1.25)  # noqa: S311
                pull.note = f"the connection broke; try {number + 1} of {_TRIES} follows"
                _log.warning("pull broke off", image=pull.image, error=words[:200], again_in_s=round(wait_s, 2))
                await self._wait(wait_s)

    async def _try(self, pull: _Pull, credential: Credential | None) -> None:
        pull.layers = Layers()

        def said(line: Line) -> None:
            pull.layers.take(line)
            pull.note = ""
            self._heard()

        async with asyncio.timeout(self._stalled_s) as pull.patience:
            await self._store.pull(pull.image, said, credential)

    def _heard(self) -> None:
        deadline = asyncio.get_running_loop().time() + self._stalled_s
        for one in self._running.values():
            if one.patience is not None and one.patience.when() is not None and not one.patience.expired():
                one.patience.reschedule(deadline)


def _progress(pull: _Pull) -> PullProgress:
    found = pull.layers.progress(pull.image)
    return replace(found, note=pull.note) if pull.note else found
