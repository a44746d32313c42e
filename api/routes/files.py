"""Files of sessions: tars that pass through, never held."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Annotated

import httpx
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse

from api.deps import Who, With
from api.nodes import running_node
from api.streamed import Streamed
from moorage.db import sessions

router = APIRouter(prefix="/session", tags=["sessions"])
_Path = Annotated[str, Query(min_length=1, max_length=4096)]


@router.get(
    "/{ref}/files",
    summary="Download a file or folder",
    response_class=Response,
    responses={200: {"content": {"application/x-tar": {}, "application/json": {}}}},
)
async def download(ref: str, path: _Path, who: Who, parts: With, stat: bool = False, kernel: str = "main1") -> Response:
    """A tar of it. With `stat=true` what it is: name, size (bytes), mode, modified (seconds since 1970), is_folder."""
    row = await sessions.find(parts.engine, who, ref, "session:download")
    node = await running_node(parts, row, kernel, "a download")
    if stat:
        return JSONResponse((await node.ask("GET", "files", "download", params=[("path", path), ("stat", "1")])).json())
    told = {"path": path, "kernel": kernel}
    await sessions.record_asked(parts.engine, who, "session:download", str(row["id"]), after=told)
    closing = AsyncExitStack()
    answer = await closing.enter_async_context(node.stream("GET", "files", "download", params=[("path", path)]))
    return Streamed(_pieces(answer, closing), media_type="application/x-tar")


@router.put("/{ref}/files", summary="Upload files into a folder")
async def upload(request: Request, ref: str, path: _Path, who: Who, parts: With, kernel: str = "main1") -> Response:
    """The body is a tar, which is unpacked in the folder `path`. Answers how many bytes were taken."""
    row = await sessions.find(parts.engine, who, ref, "session:upload")
    node = await running_node(parts, row, kernel, "an upload")
    told = {"path": path, "kernel": kernel}
    await sessions.record_asked(parts.engine, who, "session:upload", str(row["id"]), after=told)
    params = [("path", path)]
    async with node.stream("PUT", "files", "upload", params=params, content=request.stream()) as answer:
        await answer.aread()
        return JSONResponse(answer.json())


async def _pieces(answer: httpx.Response, closing: AsyncExitStack) -> AsyncGenerator[bytes, None]:
    async with closing:
        async for piece in answer.aiter_raw():
            yield piece
