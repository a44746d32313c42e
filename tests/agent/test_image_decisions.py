"""What is told of a pull, and what is collected, decided without any image."""

from __future__ import annotations

from agent_worker.images.collect import FRESH_S, to_remove
from agent_worker.images.contract import Line, StoredImage
from agent_worker.images.progress import aggregate
from agent_worker.images.uses import Use
from moorage.domain.pulls import PullProgress

_LINES: list[Line] = [
    {"status": "Pulling from library/app", "id": "1"},
    {"status": "Already exists", "progressDetail": {}, "id": "a"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "b"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "c"},
    {"status": "Waiting", "progressDetail": {}, "id": "c"},
    {"status": "Downloading", "progressDetail": {"current": 10_000_000, "total": 40_000_000}, "id": "b"},
    {"status": "Downloading", "progressDetail": {"current": 30_000_000, "total": 40_000_000}, "id": "b"},
    {"status": "Downloading", "progressDetail": {"current": 5_000_000, "total": 20_000_000}, "id": "c"},
]  # fmt: skip


def test_lines_of_a_pull_become_one_progress() -> None:
    now = aggregate("app:1", _LINES)
    assert now == PullProgress("app:1", 1, 3, 35_000_000, 60_000_000, cached=1)
    assert now.words() == "pulling app:1: 1/3 layers, 35 of 60 MB"
    more: list[Line] = [
        {"status": "Download complete", "id": "b"},
        {"status": "Extracting", "progressDetail": {"current": 1, "total": 40_000_000}, "id": "b"},
        {"status": "Pull complete", "id": "b"},
    ]
    assert aggregate("app:1", [*_LINES, *more]) == PullProgress("app:1", 2, 3, 45_000_000, 60_000_000, cached=1)


def test_a_broken_layer_begins_again_and_says_so() -> None:
    broken = aggregate("app:1", [*_LINES, {"status": "Retrying in 5 seconds", "progressDetail": {}, "id": "b"}])
    assert (broken.bytes_done, broken.note) == (5_000_000, "the connection broke; retrying in 5 seconds")
    assert broken.words().endswith("5 of 60 MB, the connection broke; retrying in 5 seconds")
    assert aggregate("app:1", []).words() == "pulling app:1"


def _stored(name: str) -> StoredImage:
    return StoredImage(f"id-{name}", (f"{name}:1",), (), 10)


def test_what_goes_is_ours_unused_not_fresh_and_the_longest_unused_first() -> None:
    now = 1_000_000.0
    images = [_stored(name) for name in ("fresh", "old", "older", "used", "mine")]
    uses = {
        "fresh:1": Use("id-fresh", now - FRESH_S + 1),
        "old:1": Use("id-old", now - 90_000, used=now - 5000),
        "older:1": Use("id-older", now - 50_000),
        "used:1": Use("id-used", now - 90_000),
        "moved:1": Use("id-before", now - 90_000),
    }
    pressed = to_remove(images, {"id-used"}, uses, now=now, pressed=True)
    assert pressed == ["older:1", "old:1"]
    assert to_remove(images, {"id-used"}, uses, now=now, max_age_s=6000) == ["older:1"]
    assert to_remove(images, {"id-used"}, uses, now=now) == []
    moved = StoredImage("id-another", ("moved:1",), (), 10)  # built under that name since
    assert to_remove([moved], set(), uses, now=now, pressed=True) == []
