"""Keeps a history of each story for later releases: `.venv/bin/python -m tests.replay.record`."""

from __future__ import annotations

import asyncio
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.replay.lives import STORIES, history_of, temporal

HISTORIES = Path(__file__).with_name("histories")


async def record(folder: Path) -> None:
    """One file a story. What was recorded stays: it is what an earlier day's code did."""
    folder.mkdir(parents=True, exist_ok=True)
    async with temporal() as client:
        for name, story in STORIES.items():
            if (folder / f"{name}.json").exists():
                continue
            history = await history_of(client, story)
            events = _without_traces(json.loads(history.to_json()))
            (folder / f"{name}.json").write_text(f"{json.dumps(events, indent=1)}\n")


def _without_traces(value: Any) -> Any:
    """Stack traces name files of the machine that recorded them, and no replay reads them."""
    if isinstance(value, dict):
        return {key: _without_traces(one) for key, one in value.items() if key != "stackTrace"}
    return [_without_traces(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    asyncio.run(record(HISTORIES / version("moorage")))
