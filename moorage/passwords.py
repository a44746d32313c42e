"""Passwords: argon2id, in threads of their own, so that nobody else waits for a hash."""

from __future__ import annotations

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from moorage.domain.errors import InvalidRequest

SHORTEST = 10
_hasher = PasswordHasher()
# Verified for whoever has no password, so that it takes as long as a wrong one.
_NOBODY = _hasher.hash(secrets.token_hex())
# A hash takes 64 MiB and all of a processor: more at once only make each slower.
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="argon2")


def hash_by(hasher: PasswordHasher) -> None:
    """Passwords are hashed by this one from now on; the tests' is cheap."""
    global _hasher, _NOBODY
    _hasher, _NOBODY = hasher, hasher.hash(secrets.token_hex())


async def hashed(password: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(_threads, lambda: _hasher.hash(password))


async def is_right(stored: str | None, password: str) -> bool:
    """Takes as long whether there is one or not."""
    right = await asyncio.get_running_loop().run_in_executor(_threads, _verified, stored or _NOBODY, password)
    return right and stored is not None


def is_outdated(stored: str) -> bool:
    """Whether it was hashed with weaker parameters than today's."""
    return _hasher.check_needs_rehash(stored)


def check_new(new: str, *, email: str, old: str = "") -> None:
    """Refuses a password that is short, the e-mail address, or the one before."""
    if len(new) < SHORTEST:
        raise _weak(f"a password has at least {SHORTEST} characters; this one has {len(new)}")
    if new.casefold() in (email.casefold(), email.partition("@")[0].casefold()):
        raise _weak("the e-mail address is no password")
    if new == old:
        raise _weak("the new password is the old one")


def _verified(stored: str, password: str) -> bool:
    try:
        return _hasher.verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False


def _weak(words: str) -> InvalidRequest:
    return InvalidRequest(words, code="weak-password", hint="choose another one", data={"min_length": SHORTEST})
