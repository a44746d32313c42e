"""The headers that say who asks, read once and strictly."""

from __future__ import annotations

from urllib.parse import quote

from starlette.types import Scope

from moorage.domain.errors import InvalidRequest

_READ = frozenset(
    (
        b"authorization", b"content-type", b"date", b"host", b"x-backendai-act-as", b"x-backendai-date",
        b"x-backendai-version", b"x-moorage-act-as",
    )
)  # fmt: skip
_LONGEST = 8192

Heads = dict[bytes, str]


def heads(scope: Scope) -> Heads:
    """By lower-case name. One that comes twice, is too long or holds more than printable ASCII is refused."""
    found: Heads = {}
    for name, value in scope["headers"]:
        if name in _READ:
            words = value.decode("latin-1")
            if name in found or len(words) > _LONGEST or not (words.isascii() and words.isprintable()):
                raise InvalidRequest(
                    f"the header {name.decode()} must come once, with at most {_LONGEST} printable ASCII characters",
                    code="invalid-auth-params",
                )
            found[name] = words
    return found


def acts_as(said: Heads) -> str:
    """The e-mail address of whoever is to be acted for, or "". Only one can be named."""
    ours, theirs = said.get(b"x-moorage-act-as", ""), said.get(b"x-backendai-act-as", "")
    if ours and theirs and ours != theirs:
        raise InvalidRequest(
            "X-Moorage-Act-As and X-BackendAI-Act-As name different users; one can be acted for",
            code="invalid-auth-params",
        )
    return (ours or theirs).strip()


def raw_target(scope: Scope) -> str:
    """Path and query as they stood on the request line, undecoded."""
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path
