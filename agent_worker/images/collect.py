"""Which images a node may give up, and in which order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from agent_worker.images.contract import StoredImage
from agent_worker.images.uses import Use

# What was pulled or used so lately is about to be used again: its session may be between pull and create.
FRESH_S = 600.0


def to_remove(
    images: Iterable[StoredImage],
    in_use: Collection[str],
    uses: Mapping[str, Use],
    *,
    now: float,
    max_age_s: float = 0.0,
    pressed: bool = False,
) -> list[str]:
    """Names, least recently used first: those older than `max_age_s` (0 is never), or all that may go if `pressed`.

    Never what a container has, never what is fresh, and never a name that this agent has not pulled.
    """
    found: list[tuple[float, str]] = []
    for image in images:
        if image.image_id in in_use:
            continue
        for name in (*image.names, *image.digests):
            use = uses.get(name)
            # Somebody may have built another image under the name since.
            if use is None or use.image_id != image.image_id:
                continue
            age_s = now - use.last
            if age_s >= FRESH_S and (pressed or (max_age_s and age_s >= max_age_s)):
                found.append((use.last, name))
    return [name for _, name in sorted(found)]
