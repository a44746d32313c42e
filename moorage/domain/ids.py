"""Names and ids."""

from __future__ import annotations

import re
import secrets
import string
import uuid

from moorage.domain.errors import InvalidRequest

_SESSION_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{2,62})[A-Za-z0-9_]")
_AGENT_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,62})")
_TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EMAIL = re.compile(r"[a-z0-9_][a-z0-9._+'&=~-]{0,63}@[a-z0-9](?:[a-z0-9.-]{0,188}[a-z0-9])?")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new_access_key() -> str:
    return "AKIA" + "".join(secrets.choice(string.ascii_uppercase + string.digits) for _ in range(16))


def new_secret_key() -> str:
    return secrets.token_urlsafe(30)


def new_id() -> str:
    return str(uuid.uuid4())


def checked_session_name(name: str) -> str:
    """4–64 letters, digits, `_`, `.` and `-`, beginning and ending with a letter, digit or `_`."""
    if not _SESSION_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not a session name; allowed are 4 to 64 letters, digits, '.', '-' and '_', "
            "beginning and ending with a letter, digit or '_'",
            code="invalid-name",
        )
    return name


def checked_agent_id(agent_id: str) -> str:
    if not _AGENT_ID.fullmatch(agent_id):
        raise InvalidRequest(
            f"{agent_id[:80]!r} is not an agent id; allowed are 1 to 63 letters, digits, '.', '-' and '_'",
            code="invalid-name",
        )
    return agent_id


def checked_group_name(name: str) -> str:
    """1–63 letters, digits, `_`, `.` and `-`, beginning with a letter or digit."""
    if not _AGENT_ID.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not a resource group's name; allowed are 1 to 63 letters, digits, '.', '-' and '_'",
            code="invalid-name",
        )
    return name


def is_id(words: str) -> bool:
    return _UUID.fullmatch(words) is not None


def checked_tenant_name(name: str, what: str) -> str:
    """The name of a domain, project or role: 1–64 letters, digits, `_`, `.` and `-`, first a letter or digit."""
    if not _TENANT_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{name[:80]!r} is not the name of a {what}; allowed are 1 to 64 letters, digits, '.', '-' and '_',"
            " beginning with a letter or digit",
            code="invalid-name",
        )
    return name


def checked_email(email: str) -> str:
    """In lower case. ASCII only: what merely looks like another's address is none."""
    lowered = email.strip(" ").lower() if email.isascii() else ""
    if not _EMAIL.fullmatch(lowered) or ".." in lowered:
        raise InvalidRequest(
            f"{email[:80]!r} is not an e-mail address; allowed is name@host,"
            " of ASCII letters, digits and . _ + - ' & = ~",
            code="invalid-email",
        )
    return lowered
