"""What is typed into paths and filters is data: no query changes, no file is read, nobody else's things are reached."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.gateway import Gateway
from tests.support.two_domains import settle

PAYLOADS = [
    "' OR '1'='1",
    "'; DROP TABLE sessions; --",
    '" OR ""="',
    "%' UNION SELECT access_key, secret FROM keypairs --",
    "$1",
    "{0.__class__}",
    "../../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "a\\b",
    "%00",
    "name; SELECT pg_sleep(10)",
    "ada@alpha.org\r\nX-Admin: yes",
    "x" * 4000,
]


def string_parameters(document: dict[str, Any]) -> list[tuple[str, str]]:
    """(path, query parameter, or "" for the one in the path) of every GET that takes a text."""
    found = []
    for path, operations in document["paths"].items():
        for one in operations.get("get", {}).get("parameters", []):
            kinds = [one["schema"], *one["schema"].get("anyOf", [])]
            if any(kind.get("type") == "string" for kind in kinds) and one["in"] in ("query", "path"):
                found.append((path, one["name"] if one["in"] == "query" else ""))
    return found


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_no_text_in_a_path_or_filter_is_more_than_a_text(gateway: Gateway, payload: str) -> None:
    tenants = await settle(gateway.engine)
    dan, ada = tenants["dan"], tenants["ada"]
    secret = (await gateway.submitted(dan.headers, name="dans-own"))["id"]
    parameters = string_parameters(gateway.app.openapi())
    assert len(parameters) > 40
    for path, name in parameters:
        if "/auth/oidc/" in path or "wait_from" in name:
            continue
        filled = re.sub(r"{[^}]+}", quote(payload, safe="") if not name else "abcd", path)
        answer = await gateway.http.get(filled, params={name: payload} if name else {}, headers=ada.headers)
        where = f"{filled} {name}"
        assert answer.status_code < 500, where
        for word in ("dans-own", secret, dan.email, "root:x:", "argon2"):
            assert word not in answer.text, where
        assert "X-Admin" not in answer.headers, where
    everything = await gateway.get("/session", tenants["root"].headers)
    assert everything.json()["total"] == 1
