"""What Docker says of a pull, line by line, as one progress."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent_worker.images.contract import Line
from moorage.domain.pulls import PullProgress

_CACHED = "Already exists"
_DONE = frozenset({_CACHED, "Pull complete"})
_LOADED = frozenset({"Verifying Checksum", "Download complete", "Extracting", "Pull complete"})
_LAYER = frozenset({"Pulling fs layer", "Waiting", "Downloading", *_LOADED, *_DONE})


@dataclass(slots=True)
class _Layer:
    done: bool = False
    cached: bool = False
    loaded: int = 0
    size: int = 0


class Layers:
    """The layers of one image. Bytes are those of downloads; a layer is done when it is unpacked."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}
        self._note = ""

    def take(self, line: Line) -> None:
        """Lines about anything but layers change nothing."""
        name, status = str(line.get("id", "")), str(line.get("status", ""))
        if name and status.startswith("Retrying"):
            self._note = f"the connection broke; {status[0].lower()}{status[1:]}"
            self._layer(name).loaded = 0
            return
        if not name or status not in _LAYER:
            return
        self._note, layer = "", self._layer(name)
        detail = line.get("progressDetail") or {}
        layer.size = max(layer.size, int(detail.get("total") or 0))
        if status == "Downloading":
            layer.loaded = int(detail.get("current") or 0)
        elif status in _LOADED:
            layer.loaded = layer.size
        layer.done = layer.done or status in _DONE
        layer.cached = layer.cached or status == _CACHED

    def progress(self, image: str) -> PullProgress:
        layers = self._layers.values()
        return PullProgress(
            image,
            layers_done=sum(one.done for one in layers),
            layers=len(layers),
            bytes_done=sum(min(one.loaded, one.size) for one in layers),
            bytes_total=sum(one.size for one in layers),
            cached=sum(one.cached for one in layers),
            note=self._note,
        )

    def _layer(self, name: str) -> _Layer:
        return self._layers.setdefault(name, _Layer())


def aggregate(image: str, lines: Iterable[Line]) -> PullProgress:
    """Where a pull stands that has said these lines."""
    layers = Layers()
    for line in lines:
        layers.take(line)
    return layers.progress(image)
