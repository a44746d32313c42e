"""Where a request comes from: its address behind proxies that are trusted, and an id that follows it everywhere.

Nobody else reads what a proxy adds. A header that a client can write itself is believed from a trusted proxy only.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import answers
from moorage import log
from moorage.db.audit import Asking, asking
from moorage.domain.errors import InvalidRequest

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PORT = re.compile(r":\d{1,5}", re.ASCII)


class Origin:
    """ASGI middleware: each request is answered under an `Asking` of its own, and told its id."""

    def __init__(self, app: ASGIApp, trusted: Networks) -> None:
        self._app = app
        self._trusted = trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        asked = Asking(client_address(scope, self._trusted), _request_id(scope["headers"]))
        state = scope.setdefault("state", {})
        state["request_id"] = asked.request_id
        header = (b"x-request-id", asked.request_id.encode())

        async def named(message: Message) -> None:
            if answers.begins(message) or answers.opens(message):
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        token = asking.set(asked)
        try:
            with log.bound(request_id=asked.request_id):
                await self._app(scope, receive, named)
        finally:
            asking.reset(token)
        return None


def client_address(scope: Scope, trusted: Networks) -> str:
    """The peer; behind trusted proxies the last address that none of them is. Empty if the peer has none."""
    peer = parse_address(scope["client"][0]) if scope.get("client") else None
    if peer is None:
        return ""
    if not _among(peer, trusted):
        return str(peer)
    for entry in reversed(_forwarded(scope["headers"])):
        found = parse_address(entry)
        if found is None:  # what stands to the left of nonsense is no better
            break
        peer = found
        if not _among(peer, trusted):
            break
    return str(peer)


def _forwarded(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Of all such headers, in their order: proxies append to the last one, or add one."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return ",".join(lines).split(",") if lines else []


@lru_cache(4096)
def parse_address(words: str) -> Address | None:
    """Without port, brackets and zone; an IPv4 address in IPv6's clothes is an IPv4 address. None for anything else."""
    words = words.strip(" \t")
    if words.startswith("["):
        words, closed, port = words[1:].partition("]")
        if not closed or (port and not _PORT.fullmatch(port)):
            return None
    elif words.count(":") == 1:
        words, _, port = words.partition(":")
        if not _PORT.fullmatch(f":{port}"):
            return None
    try:
        found = ip_address(words.partition("%")[0])
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def parse_networks(words: str) -> Networks:
    """A comma list of addresses and networks (CIDR)."""
    found = []
    for one in filter(None, (part.strip() for part in words.split(","))):
        try:
            found.append(ip_network(one))
        except ValueError as error:
            raise InvalidRequest(
                f"MOORAGE_TRUSTED_PROXIES: {one[:80]!r} is no network ({error}); it is a list such as"
                " 10.0.0.0/8,192.0.2.7",
                code="invalid-setting",
            ) from None
    return found


def _among(address: Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The client's, if it is a harmless word; else a new one."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
