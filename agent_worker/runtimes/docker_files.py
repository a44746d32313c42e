"""Files in a container, over Docker's archives."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

import httpx

from agent_worker.runtimes.archive import Owner, checked
from agent_worker.runtimes.contract import FileFound, FileRefused, RuntimeRefusal
from agent_worker.runtimes.engine import Engine, Missing

_FOLDER = 1 << 31  # of Go's file modes
_PERMISSIONS = 0o777
_UNPACKED_WITHIN_S = 600.0  # Docker answers when all is written


async def find(engine: Engine, container_id: str, path: str) -> FileFound:
    """Through symbolic links, which Docker follows within the container."""
    _, found = await _found(engine, container_id, path)
    is_folder = bool(found["mode"] & _FOLDER)
    modified = datetime.fromisoformat(found["mtime"]).timestamp()
    return FileFound(
        found["name"], 0 if is_folder else found["size"], found["mode"] & _PERMISSIONS, modified, is_folder
    )


async def download(engine: Engine, container_id: str, path: str) -> AsyncIterator[bytes]:
    real, _ = await _found(engine, container_id, path)
    async with _refusing(path), engine.stream("GET", _archive(container_id), params={"path": real}) as answer:
        async for piece in answer.aiter_raw():
            yield piece


async def upload(engine: Engine, container_id: str, folder: str, archive: AsyncIterator[bytes], owner: Owner) -> None:
    params = {"path": folder, "noOverwriteDirNonDir": "1"}
    headers = {"Content-Type": "application/x-tar"}
    timeout = httpx.Timeout(60.0, read=_UNPACKED_WITHIN_S, write=None)
    async with _refusing(folder), aclosing(checked(archive, owner)) as content:
        await engine.ask(
            "PUT", _archive(container_id), params=params, headers=headers, content=content, timeout=timeout
        )


async def _found(engine: Engine, container_id: str, path: str) -> tuple[str, dict[str, Any]]:
    """(where it really is, what Docker says of it)"""
    async with _refusing(path):
        answer = await engine.ask("HEAD", _archive(container_id), params={"path": path})
        found: dict[str, Any] = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
        link = str(found.get("linkTarget") or "")
        if not link or link == path:
            return path, found
        answer = await engine.ask("HEAD", _archive(container_id), params={"path": link})
        return link, json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))


@asynccontextmanager
async def _refusing(path: str) -> AsyncIterator[None]:
    """Docker's refusals as words about the path."""
    try:
        yield
    except FileRefused:
        raise
    except Missing:
        raise FileRefused(f"{path[:200]} is not there", missing=True) from None
    except RuntimeRefusal as error:
        raise FileRefused(f"{path[:200]}: {error}") from None


def _archive(container_id: str) -> str:
    return f"/containers/{container_id}/archive"
