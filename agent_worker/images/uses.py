"""Which images this agent pulled and when each was used last, kept in a small file: it outlives the agent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from moorage import log

_log = log.get("images")


@dataclass(frozen=True, slots=True)
class Use:
    """A name that this agent pulled. Seconds since 1970; `used` 0 if no container ever had its image."""

    image_id: str
    pulled: float
    used: float = 0.0

    @property
    def last(self) -> float:
        return max(self.pulled, self.used)


class Uses:
    """Pulled names, and when images were used. An operator's own images are used too, but never pulled."""

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Without a file it is forgotten with the process."""
        self._file = file
        self._clock = clock
        self._pulled, self._used = _load(file)
        self._dirty = False

    def pulled(self, name: str, image_id: str) -> None:
        """Written at once: a crash must not make it somebody else's."""
        self._pulled[name] = (image_id, self._clock())
        self._dirty = True
        self.save()

    def used(self, image_ids: Iterable[str]) -> None:
        """These images were used now."""
        self._used |= dict.fromkeys(image_ids, self._clock())
        self._dirty = True

    def last_used(self, image_id: str) -> float:
        return self._used.get(image_id, 0.0)

    def of_pulled(self) -> dict[str, Use]:
        return {name: Use(id_, at, self.last_used(id_)) for name, (id_, at) in self._pulled.items()}

    def keep(self, names: Collection[str], image_ids: Collection[str]) -> None:
        """Forgets what is not on the node any more."""
        gone = [name for name in self._pulled if name not in names]
        old = [image_id for image_id in self._used if image_id not in image_ids]
        for name in gone:
            del self._pulled[name]
        for image_id in old:
            del self._used[image_id]
        self._dirty = self._dirty or bool(gone or old)

    def save(self) -> None:
        """On the disk, if anything changed. A disk that takes nothing costs what was remembered, no session."""
        if not self._dirty or self._file is None:
            return
        partial = self._file.with_suffix(".partial")
        try:
            partial.write_text(json.dumps({"pulled": self._pulled, "used": self._used}))
            partial.replace(self._file)
            self._dirty = False
        except OSError as error:
            _log.warning("uses of images not kept", error=str(error))


def _load(file: Path | None) -> tuple[dict[str, tuple[str, float]], dict[str, float]]:
    """Empty without a file, or with one that can't be read: then nothing is collected that was pulled before."""
    if file is None or not file.exists():
        return {}, {}
    try:
        found = json.loads(file.read_text())
        pulled = {str(name): (str(image_id), float(at)) for name, (image_id, at) in found["pulled"].items()}
        return pulled, {str(image_id): float(at) for image_id, at in found["used"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("uses of images can't be read; what was pulled before is not collected", error=str(error))
        return {}, {}
