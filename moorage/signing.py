"""Requests signed with a key pair: Backend.AI's signature, and a stricter one that covers the body and counts once.

Nothing here does I/O: the gateway verifies with it, clients sign with it.

    Authorization: BackendAI signMethod=HMAC-SHA256, credential=<access key>:<hex>
    Authorization: Moorage signMethod=HMAC-SHA256, credential=<access key>:<hex>, nonce=<16 to 64 of A-Z a-z 0-9 _ ->
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum

from moorage.domain.errors import InvalidRequest

WINDOW_S = 900.0
"""A signature counts for so long before and after its date."""


class Scheme(StrEnum):
    BACKENDAI = "BackendAI"
    MOORAGE = "Moorage"


# `Sorna` was Backend.AI's name.
_SCHEMES = {"backendai": Scheme.BACKENDAI, "sorna": Scheme.BACKENDAI, "moorage": Scheme.MOORAGE}
# The rest of the guaranteed hashes; these have no length of their own.
_HASHES = {name for name in hashlib.algorithms_guaranteed if not name.startswith("shake")}
_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}")
_NO_CONTENT_TYPE = "application/octet-stream"
_DEFAULT_PORTS = (":80", ":443")


@dataclass(frozen=True, slots=True)
class Asked:
    """The request. `target`: path and query as on the request line; the rest as in the headers, "" where missing."""

    method: str
    target: str
    date: str
    host: str
    content_type: str = ""
    version: str = ""  # X-BackendAI-Version; Moorage's own scheme has none


@dataclass(frozen=True, slots=True)
class Signature:
    """What an Authorization header claims."""

    scheme: Scheme
    access_key: str
    digest: str
    hash_name: str = "sha256"
    nonce: str = ""

    def __str__(self) -> str:
        words = f"{self.scheme} signMethod=HMAC-{self.hash_name.upper()}, credential={self.access_key}:{self.digest}"
        return f"{words}, nonce={self.nonce}" if self.nonce else words


def is_signature(scheme: str) -> bool:
    """Whether an Authorization header that begins with this word is one of ours to verify."""
    return scheme.lower() in _SCHEMES


def read(authorization: str) -> Signature:
    """The claim in the header; InvalidRequest says what is wrong with its form."""
    word, _, rest = authorization.partition(" ")
    scheme, given = _SCHEMES[word.lower()], _parameters(rest)
    access_key, _, digest = given.get("credential", "").partition(":")
    method, _, hash_name = given.get("signMethod", "").partition("-")
    hash_name = hash_name.lower().replace("sha3-", "sha3_")
    if not access_key or not digest:
        raise _invalid("credential is <access key>:<signature>")
    if method.upper() != "HMAC" or hash_name not in _HASHES:
        raise _invalid("signMethod is HMAC- and the name of a hash, for example HMAC-SHA256")
    nonce = ""
    if scheme is Scheme.MOORAGE:
        nonce = given.get("nonce", "")
        if hash_name != "sha256" or not _NONCE.fullmatch(nonce):
            raise _invalid("Moorage takes HMAC-SHA256 and a nonce of 16 to 64 letters, digits, - and _")
    return Signature(scheme, access_key, digest.lower(), hash_name, nonce)


def check_date(date: str, now: float) -> None:
    """Refuses a date that is not within the window around `now` (seconds since 1970)."""
    off_s = moment(date).timestamp() - now
    if not -WINDOW_S < off_s < WINDOW_S:
        raise _invalid(
            f"the request's date is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the gateway's clock;"
            f" less than {WINDOW_S:.0f} s are allowed",
            hint="set this machine's clock",
        )


def moment(date: str) -> datetime:
    """As ISO 8601 or RFC 7231 write it; UTC where no zone is said."""
    for reads in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = reads(date)
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
        if 1970 < found.year < 9999:
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    raise _invalid("Date or X-BackendAI-Date must hold the time, for example 2026-01-31T08:00:00+00:00")


def is_right(claim: Signature, asked: Asked, secret: bytes, *, body: bytes = b"") -> bool:
    """Whether whoever knows the secret signed this; how long it takes tells nothing about the right signature."""
    if claim.scheme is Scheme.MOORAGE:
        return hmac.compare_digest(_digest(asked, secret, claim.nonce, body), claim.digest)
    if not asked.version:
        raise _invalid("X-BackendAI-Version is missing; the signature covers it")
    return any(
        hmac.compare_digest(_backendai_digest(asked, secret, host, claim.hash_name), claim.digest)
        for host in _forms(asked.host)
    )


def sign_as_backendai(asked: Asked, access_key: str, secret: str, *, hash_name: str = "sha256") -> dict[str, str]:
    """The headers that Backend.AI's client would send."""
    digest = _backendai_digest(asked, secret.encode(), asked.host, hash_name)
    return {
        "Authorization": str(Signature(Scheme.BACKENDAI, access_key, digest, hash_name)),
        "Date": asked.date,
        "X-BackendAI-Version": asked.version,
    }


def sign(asked: Asked, access_key: str, secret: str, *, body: bytes = b"", nonce: str = "") -> dict[str, str]:
    """The headers of a request that counts once. A nonce is made if none is given; never use one twice."""
    nonce = nonce or secrets.token_urlsafe(18)
    digest = _digest(asked, secret.encode(), nonce, body)
    return {"Authorization": str(Signature(Scheme.MOORAGE, access_key, digest, nonce=nonce)), "Date": asked.date}


def _parameters(words: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in words.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name in found:
            raise _invalid("Authorization holds name=value, separated by commas, each name once")
        found[name.strip()] = value.strip()
    return found


def _backendai_digest(asked: Asked, secret: bytes, host: str, hash_name: str) -> str:
    """The body is not covered; its place holds the hash of nothing. The day is the date's own, in whatever zone."""
    media_type = asked.content_type.partition(";")[0].strip().lower() or _NO_CONTENT_TYPE
    lines = (
        asked.method.upper(),
        asked.target,
        asked.date,
        f"host:{host}",
        f"content-type:{media_type}",
        f"x-backendai-version:{asked.version}",
        hashlib.new(hash_name, b"").hexdigest(),
    )
    of_day = hmac.digest(secret, moment(asked.date).strftime("%Y%m%d").encode(), hash_name)
    key = hmac.digest(of_day, host.encode(), hash_name)
    return hmac.digest(key, "\n".join(lines).encode(), hash_name).hex()


def _digest(asked: Asked, secret: bytes, nonce: str, body: bytes) -> str:
    """The first line keeps this signature from meaning anything elsewhere."""
    lines = (
        "moorage-signature-1",
        asked.method.upper(),
        asked.target,
        asked.date,
        asked.host,
        asked.content_type,
        nonce,
        hashlib.sha256(body).hexdigest(),
    )
    key = hmac.digest(secret, b"moorage-signature-1", "sha256")
    return hmac.digest(key, "\n".join(lines).encode(), "sha256").hex()


def _forms(host: str) -> Iterator[str]:
    """The host as sent, and with or without its default port: a client may sign the one and send the other."""
    yield host
    bare = next((host.removesuffix(port) for port in _DEFAULT_PORTS if host.endswith(port)), "")
    if bare:
        yield bare
    elif not re.search(r":\d+$", host):
        yield from (host + port for port in _DEFAULT_PORTS)


def _invalid(words: str, *, hint: str = "") -> InvalidRequest:
    return InvalidRequest(words, code="invalid-auth-params", hint=hint)
