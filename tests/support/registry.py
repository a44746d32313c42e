"""A real registry on this machine, as far as Docker pulls from one: OCI manifests and blobs, read only, over HTTP.

Docker takes any address of this machine for an insecure registry, so nothing is set up for it. It counts what is asked,
breaks connections in the middle of a blob, holds blobs back, and asks for a password, as it is told.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import json
import random
import tarfile
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import docker
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.served import served

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PIECE = 64 * 1024


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """`password`: asked of the user `robot` if it is not empty. `broken`: how many more transfers of a layer break."""

    address: str = ""
    password: str = ""
    broken: int = 0
    refuses: int = 0  # how many more requests for manifests end in 503
    released: threading.Event | None = None  # held until then: layers stop half-way
    asked: Counter[str] = field(default_factory=Counter)
    held: int = 0
    _blobs: dict[str, bytes] = field(default_factory=dict)
    _manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def name(self, repository: str, tag: str = "1") -> str:
        return f"{self.address}/{repository}:{tag}"

    def push(self, repository: str, tag: str, image: Image) -> str:
        """Under the tag from now on. Returns the digest."""
        manifest, blobs = image.manifest()
        self._blobs |= blobs
        for reference in (tag, digest(manifest)):
            self._manifests[repository, reference] = manifest
        return digest(manifest)

    async def base(self, request: Request) -> Response:
        return self._refusal(request) or JSONResponse({})

    async def manifest(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        found = self._manifests.get((request.path_params["name"], request.path_params["reference"]))
        self.asked["manifest"] += 1
        if self.refuses:
            self.refuses -= 1
            return Response("try later", 503)
        if found is None:
            return _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return Response(found, media_type=_MANIFEST, headers={"Docker-Content-Digest": digest(found)})

    async def blob(self, request: Request) -> Response:
        if refusal := self._refusal(request):
            return refusal
        name = request.path_params["digest"]
        content = self._blobs.get(name)
        if content is None:
            return _error(404, "BLOB_UNKNOWN", "blob unknown")
        if request.method == "HEAD" or len(content) < 10 * _PIECE:  # the configuration, or a small layer
            return Response(content)
        self.asked[name] += 1
        begin = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"Content-Length": str(len(content) - begin), "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        return StreamingResponse(self._pieces(content, begin), 206 if begin else 200, headers=headers)

    async def _pieces(self, content: bytes, begin: int) -> AsyncIterator[bytes]:
        half = len(content) // 2
        for at in range(begin, len(content), _PIECE):
            if at >= half and self.broken:
                self.broken -= 1
                raise ConnectionResetError("told to break")
            if at >= half and self.released is not None:
                self.held += 1
                await asyncio.to_thread(self.released.wait, 60)
            yield content[at : at + _PIECE]

    def _refusal(self, request: Request) -> Response | None:
        wanted = base64.b64encode(f"robot:{self.password}".encode()).decode()
        if not self.password or request.headers.get("authorization") == f"Basic {wanted}":
            return None
        answer = _error(401, "UNAUTHORIZED", "authentication required")
        answer.headers["WWW-Authenticate"] = 'Basic realm="tests"'
        return answer


@dataclass(frozen=True, slots=True)
class Image:
    """A configuration and layers (uncompressed archives)."""

    config: dict[str, Any]
    layers: tuple[bytes, ...]

    def manifest(self) -> tuple[bytes, dict[str, bytes]]:
        """(the manifest, all blobs by digest)."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in self.layers]
        config = json.dumps(
            {**self.config, "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in self.layers]},
             "history": [{"created_by": "a test"} for _ in self.layers]}
        ).encode()  # fmt: skip
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _described("application/vnd.docker.container.image.v1+json", config),
            "layers": [_described("application/vnd.docker.image.rootfs.diff.tar.gzip", one) for one in packed],
        }
        return json.dumps(manifest).encode(), {digest(one): one for one in (config, *packed)}


def an_image(base: Image, *, seed: int, layers: int = 2, mib: float = 2.0) -> Image:
    """The base with layers of noise on top, which no two seeds share: nobody has them yet."""
    noise = random.Random(seed)
    more = [_layer(f"noise-{seed}-{number}", noise.randbytes(round(mib * 1024**2))) for number in range(layers)]
    return Image({**base.config, "container": str(seed)}, (*base.layers, *more))


def saved_image(client: docker.APIClient, name: str) -> Image:
    """An image that Docker has here, as it would lie in a registry."""
    saved = b"".join(client.get_image(name))
    with tarfile.open(fileobj=BytesIO(saved)) as archive:

        def read(member: str) -> bytes:
            found = archive.extractfile(member)
            assert found is not None
            return found.read()

        [listed] = json.loads(read("manifest.json"))
        config = json.loads(read(listed["Config"]))
        kept = {name: config[name] for name in ("architecture", "os", "config")}
        return Image(kept, tuple(read(layer) for layer in listed["Layers"]))


@contextmanager
def a_registry() -> Iterator[Registry]:
    registry = Registry()
    app = Starlette(
        routes=[
            Route("/v2/", registry.base),
            Route("/v2/{name:path}/manifests/{reference}", registry.manifest, methods=["GET", "HEAD"]),
            Route("/v2/{name:path}/blobs/{digest}", registry.blob, methods=["GET", "HEAD"]),
        ]
    )
    with served(app) as address:
        registry.address = address.removeprefix("http://")
        yield registry


def _layer(name: str, content: bytes) -> bytes:
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(f"tmp/{name}")
        entry.size = len(content)
        tar.addfile(entry, BytesIO(content))
    return archive.getvalue()


def _described(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "size": len(content), "digest": digest(content)}


def _error(status: int, code: str, message: str) -> Response:
    return JSONResponse({"errors": [{"code": code, "message": message}]}, status)
