"""Secrets by name, and where a session finds them. Values never stand here."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from moorage.domain.errors import InvalidRequest

LARGEST_BYTES = 64 * 1024
# Kernels are told their secrets in one message, which Temporal takes up to 2 MiB of.
LARGEST_OF_A_SESSION = 1024 * 1024
FOLDER = "/run/secrets"
MOST_OF_A_SESSION = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.@+-]{1,255})+")
_LONGEST_PATH = 1024
# The kernel's own file systems: nothing can lie there.
_TAKEN = ("/proc", "/sys", "/dev")


class Target(StrEnum):
    ENV = "env"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class SecretUse:
    """A secret by name, and the variable or file that a session finds it in."""

    name: str
    kind: Target
    target: str


def checked_secret_name(name: str) -> str:
    """1–128 letters, digits, `_`, `.` and `-`, beginning with a letter or `_`."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not a secret's name; allowed are 1 to 128 letters, digits, '_', '.' and '-',"
            " beginning with a letter or '_'",
            code="invalid-name",
        )
    return name


def secret_use(name: str, *, env: str | None = None, file: str | None = None) -> SecretUse:
    """Of a bare name: the variable of that name, or the file in /run/secrets if it can't be a variable's."""
    checked_secret_name(name)
    if env is not None and file is not None:
        raise _wrong(f"{name} is wanted as env and as file; list it twice for both")
    if env is not None or (file is None and _VARIABLE.fullmatch(name)):
        variable = name if env is None else env
        if not _VARIABLE.fullmatch(variable):
            raise _wrong(f"{variable[:80]!r} is not a variable's name")
        return SecretUse(name, Target.ENV, variable)
    return SecretUse(name, Target.FILE, _checked_path(f"{FOLDER}/{name}" if file is None else file))


def checked_uses(uses: Sequence[SecretUse], env: Collection[str]) -> list[SecretUse]:
    """Refuses two for one place, a file within another, and a variable that `env` has too."""
    if len(uses) > MOST_OF_A_SESSION:
        raise _wrong(f"{len(uses)} are wanted; at most {MOST_OF_A_SESSION} are allowed")
    seen: set[tuple[Target, str]] = set()
    for one in uses:
        if (one.kind, one.target) in seen:
            raise _wrong(f"two are wanted as {one.kind} {one.target}")
        if one.kind is Target.ENV and one.target in env:
            raise _wrong(f"{one.target} is in env too; leave one of them out")
        seen.add((one.kind, one.target))
    files = {one.target for one in uses if one.kind is Target.FILE}
    for path in files:
        if inside := files.intersection(str(parent) for parent in PurePosixPath(path).parents):
            raise _wrong(f"{path} lies within {min(inside)}, which is a file")
    return list(uses)


def _checked_path(path: str) -> str:
    parts = path.split("/")[1:]
    if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path) or "." in parts or ".." in parts:
        raise _wrong(f"{path[:80]!r} is not an absolute path of letters, digits and . _ - @ +, without '.' and '..'")
    if f"/{parts[0]}" in _TAKEN:
        raise _wrong(f"{path[:80]!r}: nothing can lie in {', '.join(_TAKEN)}")
    return path


def _wrong(words: str) -> InvalidRequest:
    return InvalidRequest(f"secrets: {words}", data={"field": "secrets"})
