"""Files and folders of a container, as tars that pass through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict

from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from agent_worker.dataplane.access import Access
from agent_worker.dataplane.streamed import Streamed
from agent_worker.runtimes.contract import FileRefused
from moorage.domain.errors import Conflict, InvalidRequest, MoorageError, NotFound

_LONGEST_PATH = 4096


class Files:
    def __init__(self, access: Access) -> None:
        self._access = access

    async def read(self, request: Request) -> Response:
        session_id, kernel_id = self._access.allow(request, "download")
        path = _path(request)
        container = await self._access.running(session_id, kernel_id)
        try:
            found = await self._access.runtime.find_file(container, path)
        except FileRefused as error:
            raise _refused(error) from None
        if request.query_params.get("stat") == "1":
            return JSONResponse(asdict(found))
        content = self._access.runtime.download(container, path)
        return Streamed(content, self._access.places.take(kernel_id), media_type="application/x-tar")

    async def write(self, request: Request) -> Response:
        session_id, kernel_id = self._access.allow(request, "upload")
        folder = _path(request)
        container = await self._access.running(session_id, kernel_id)
        body = _Counted(request.stream())
        with self._access.places.take(kernel_id):
            try:
                await self._access.runtime.upload(container, folder, body)
            except FileRefused as error:
                raise _refused(error) from None
            except ClientDisconnect:
                raise InvalidRequest("the client left before the archive was whole") from None
        self._access.uses.touch(kernel_id)
        return JSONResponse({"path": folder, "bytes": body.size})


class _Counted:
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self.size = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """A request's last piece is empty, and no end of a tar."""
        while not (piece := await anext(self._pieces)):
            pass
        self.size += len(piece)
        return piece


def _path(connection: HTTPConnection) -> str:
    path = connection.query_params.get("path", "")
    if not path.startswith("/") or "\0" in path or len(path) > _LONGEST_PATH:
        raise InvalidRequest(f"path is {path[:80]!r}; it must be absolute, of {_LONGEST_PATH} characters at most")
    return path


def _refused(error: FileRefused) -> MoorageError:
    if error.missing:
        return NotFound(str(error), code="file-not-found")
    return Conflict(str(error), code="file-refused")
