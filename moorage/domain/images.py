"""Names of images as Docker reads them: whose registry, whether a pattern allows it, how it is pinned."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from moorage.domain.committed import COMMITTED
from moorage.domain.errors import InvalidRequest

DOCKER_HUB = "docker.io"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PATTERN = re.compile(r"[A-Za-z0-9*?][A-Za-z0-9._/:@*?-]*")
_LONGEST = 512


def registry_of(image: str) -> str:
    """The host part of its name; `docker.io` if it has none."""
    return _split(image)[0]


def tagged(image: str) -> str:
    """As nodes name what they have: short for Docker Hub, with a tag, `latest` where none was asked for."""
    host, path, tail = _split(image)
    short = path.removeprefix("library/") if host == DOCKER_HUB else f"{host}/{path}"
    return f"{short}{tail or ':latest'}"


def is_pinned(image: str) -> bool:
    """Whether the name says exactly which image is meant."""
    return "@" in image


def pinned(image: str, digest: str) -> str:
    """The same repository at this digest; the name as it is without one, or if it is pinned already."""
    if not digest or is_pinned(image):
        return image
    host, path, _ = _split(image)
    return f"{path.removeprefix('library/') if host == DOCKER_HUB else f'{host}/{path}'}@{digest}"


def digest_of(image: str, repo_digests: Iterable[str]) -> str:
    """Of `repository@sha256:…`, as Docker lists them, the one of this image's repository; empty if there is none."""
    wanted = _split(image)[:2]
    for one in sorted(repo_digests):
        name, _, digest = one.partition("@")
        if _split(name)[:2] == wanted:
            return digest
    return ""


def is_allowed(image: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches; `*` stands for anything, `/` too. A pattern without a tag means every tag.

    What was committed was made of an image that was allowed, and comes from no registry: it always is.

    Both are compared as full names: `python:*` is Docker Hub's own `python`, whoever writes it in whichever way.
    """
    host, path, tail = _split(image)
    if host == COMMITTED:
        return True
    return any(_matches(f"{host}/{path}", tail or ":latest", pattern) for pattern in patterns)


def _matches(repository: str, tail: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    host, path, wanted = _split(pattern)
    if host == DOCKER_HUB and pattern.startswith((f"{DOCKER_HUB}/*", "*")) and "/" in pattern:
        path = path.removeprefix("library/")  # all of Docker Hub, or of any host
    name = path if host == DOCKER_HUB and _is_anywhere(pattern) else f"{host}/{path}"
    return fnmatchcase(repository, name) and (not wanted or fnmatchcase(tail, wanted) or wanted == ":*")


def _is_anywhere(pattern: str) -> bool:
    """`*/team/x`: its first part is a wildcard that stands for hosts."""
    return pattern.partition("/")[0].startswith("*") and "/" in pattern


def checked_image(name: str) -> str:
    """Refuses what Docker would read as the id of an image, which means something else on each node."""
    if name.startswith("sha256:") or re.fullmatch(r"[0-9a-f]{64}", name):
        raise InvalidRequest(
            f"{name[:80]!r} is the id of an image; give its name, with a tag or as name@sha256:…",
            code="malformed-image",
            data={"field": "image"},
        )
    _, at, digest = name.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise InvalidRequest(
            f"{name[:80]!r}: behind @ stands sha256: and 64 hex digits", code="malformed-image", data={"field": "image"}
        )
    return name


def checked_host(host: str) -> str:
    """A registry's host, with a port if it has one."""
    if not _HOST.fullmatch(host) or len(host) > 255:
        raise InvalidRequest(
            f"{host[:80]!r} is no registry; it is a host name, with :port if need be", code="malformed-registry"
        )
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com") else host


def checked_pattern(pattern: str) -> str:
    if not _PATTERN.fullmatch(pattern) or len(pattern) > _LONGEST:
        raise InvalidRequest(
            f"{pattern[:80]!r} is no pattern of images; for example python:*, team/* or registry.example/team/*",
            code="malformed-pattern",
        )
    return pattern


def _split(image: str) -> tuple[str, str, str]:
    """(host, path, tail): the tail is `@digest` if there is one, else `:tag`, else empty."""
    name, at, digest = image.partition("@")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, ""
    tail = f"@{digest}" if at else (f":{tag}" if tag else "")
    first, slash, rest = head.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        host, path = first, rest
    else:
        host, path = DOCKER_HUB, head
    if host == "index.docker.io":
        host = DOCKER_HUB
    if host == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return host, path, tail
