"""Grants over HTTP: who may give them, and what they allow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from moorage.db import nodes
from tests.support.builders import an_agent
from tests.support.gateway import WISH, Gateway, refused
from tests.support.quotas import ADA, GPUS, a_limit, audited, granted


async def test_what_a_limit_can_never_hold_is_refused_at_once_with_numbers(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, "project/default/default", max_slots={"cuda.device": 4})
    wish: dict[str, Any] = {"resources": {"cuda.device": 4}, "cluster_size": 2}
    for path in ("/session", "/plan"):
        answer = await gateway.http.post(path, json={**WISH, **wish}, headers=gateway.ada)
        problem = refused(answer, 409, "quota-exceeded")
        assert problem["data"] == {
            "scope": "project",
            "name": "default/default",
            "limit": 4,
            "asked": 8,
            "slot": "cuda.device",
        }
    await gateway.submitted(**{**wish, "cluster_size": 1})


@pytest.mark.parametrize("starts", ["0s", "2d"])
async def test_what_a_grant_will_allow_waits_for_it(gateway: Gateway, starts: str) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, f"user/{ADA}", max_slots={"cuda.device": 4})
    wish: dict[str, Any] = {"resources": {"cuda.device": 8}}
    await granted(gateway, slot="cuda.device", amount=2, starts=starts)
    refused(await gateway.submit(**wish), 409, "quota-exceeded")
    other = await granted(gateway, slot="cuda.device", amount=2, starts="1h", ends="4d")
    await gateway.submitted(**wish)
    await gateway.ask("DELETE", f"/grant/{other['id']}")
    refused(await gateway.submit(**wish), 409, "quota-exceeded")


async def test_grants_that_follow_one_another_do_not_add_up(gateway: Gateway) -> None:
    await nodes.register(gateway.engine, an_agent(devices=GPUS))
    await a_limit(gateway, f"user/{ADA}", max_slots={"cuda.device": 4})
    await granted(gateway, slot="cuda.device", amount=2, starts="0s", ends="1d")
    await granted(gateway, slot="cuda.device", amount=2, starts="2d", ends="1d")
    refused(await gateway.submit(resources={"cuda.device": 8}), 409, "quota-exceeded")


async def test_where_no_session_may_run_none_is_queued(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_sessions=0)
    assert refused(await gateway.submit(), 409, "quota-exceeded")["data"]["slot"] == "sessions"
    await granted(gateway, slot="sessions", amount=1, starts="1h")
    await gateway.submitted()


async def test_a_grant_tells_who_gave_what_until_when_and_why(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_slots={"cpu": 4})
    made = await granted(gateway, slot="cpu", amount="1.5", reason="the deadline")
    assert (made["state"], made["amount"], made["given_by"]) == ("in-force", 1500, "root@example.org")
    length = datetime.fromisoformat(made["ends_at"]) - datetime.now(UTC)
    assert timedelta(days=2, hours=23) < length <= timedelta(days=3)
    assert (await gateway.get("/grant")).json()["items"] == [made]
    [quota] = (await gateway.get("/quota", scope="user", name=ADA)).json()["items"]
    assert quota["slots"] == {"cpu": {"used": 0, "limit": 5500}}
    assert quota["grants"][0]["reason"] == "the deadline"
    assert (await audited(gateway, "grant:create"))[0]["after"]["amount"] == 1500


async def test_a_revoked_grant_counts_no_more_and_is_kept(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_sessions=1)
    made = await granted(gateway, slot="sessions", amount=2)
    for _ in range(2):
        assert (await gateway.ask("DELETE", f"/grant/{made['id']}")).status_code == 204
    [kept] = (await gateway.get("/grant")).json()["items"]
    assert (kept["state"], kept["revoked_by"]) == ("revoked", "root@example.org")
    first, again = await audited(gateway, "grant:delete")
    assert first["before"]["state"] == "in-force"
    assert again["before"] is None
    refused(await gateway.ask("DELETE", "/grant/00000000-0000-4000-8000-000000000009"), 404, "unknown-grant")
    refused(await gateway.ask("DELETE", "/grant/none"), 400, "invalid-api-params")


BAD_GRANTS: list[tuple[dict[str, Any], int, str]] = [
    ({"slot": "mem", "amount": "1g"}, 409, "no-limit"),
    ({"slot": "sessions", "amount": 1}, 409, "no-limit"),
    ({"slot": "cpu", "amount": 1, "ends": "2001-01-01"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "starts": "0s", "ends": "0s"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "367d"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "starts": "500d", "ends": "1d"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "9999-12-31T23:59:59Z"}, 400, "contradicting-times"),
    ({"slot": "cpu", "amount": 1, "ends": "Friday"}, 400, "malformed-time"),
    ({"slot": "cpu", "amount": 1, "ends": "999999999d"}, 400, "malformed-time"),
    ({"slot": "cpu", "amount": 0}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": -1}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": "1e300"}, 400, "malformed-size"),
    ({"slot": "sessions", "amount": 1.5}, 400, "malformed-size"),
    ({"slot": "sessions", "amount": 2**40}, 400, "malformed-size"),
    ({"slot": "cpu", "amount": 1, "name": "nobody@example.org"}, 404, "unknown-user"),
    ({"slot": "cpu", "amount": 1, "scope": "team"}, 400, "invalid-api-params"),
    ({"slot": "cpu", "amount": 1, "given_by": "me"}, 400, "invalid-api-params"),
]


async def test_a_grant_that_would_change_nothing_or_lasts_for_ever_is_refused(gateway: Gateway) -> None:
    await a_limit(gateway, f"user/{ADA}", max_slots={"cpu": 4})
    for wish, status, code in BAD_GRANTS:
        refused(await gateway.ask("POST", "/grant", {"scope": "user", "name": ADA, "ends": "3d", **wish}), status, code)
    assert (await gateway.get("/grant", gateway.root)).json()["items"] == []
