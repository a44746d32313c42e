"""What idleness means for a session, who may make it mean less, who is idle, and who keeps it: over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from moorage.contracts.activities import Answer, Extend, IdleReport
from moorage.domain.idle import IdlePolicy
from tests.support.gateway import Gateway, refused
from tests.support.measured import Cluster, SilentNode
from tests.support.quotas import ADA, a_limit, a_policy, an_admin, audited, run

HOUR = 3600.0
INTERACTIVE: dict[str, Any] = {"type": "interactive", "command": []}


async def idle_of(gateway: Gateway, who: dict[str, str] | None = None, **wish: Any) -> dict[str, Any] | None:
    """The policy that a new interactive session gets."""
    found: dict[str, Any] | None = (await gateway.submitted(who, **{**INTERACTIVE, **wish}))["idle"]
    return found


def a_rule(after_s: float = HOUR, **more: Any) -> dict[str, Any]:
    """As it is shown, with what holds where nothing is said."""
    said = {"cpu_percent": 5.0, "device_percent": 5.0, "net_bps": None, "grace_s": 300.0, "dry_run": False}
    return {"after_s": after_s, **said, **more}


async def test_a_session_gets_what_its_owners_say_of_idleness(gateway: Gateway) -> None:
    assert await idle_of(gateway) is None
    await a_policy(gateway, "keypair", idle_timeout_s=HOUR)
    assert await idle_of(gateway) == a_rule()
    await a_policy(gateway, "user", idle_timeout_s=1800, idle={"cpu_percent": 2, "device_percent": None, "grace_s": 60})
    assert await idle_of(gateway) == a_rule(1800.0, cpu_percent=2.0, device_percent=None, grace_s=60.0)
    await a_limit(gateway, "domain/default", idle_timeout_s=900, idle={"net_bps": 1000})
    assert await idle_of(gateway) == a_rule(900.0, net_bps=1000.0), "whose stop is first holds"
    await a_limit(gateway, "domain/default", idle_timeout_s=600, idle={"dry_run": True})
    assert (await idle_of(gateway) or {})["after_s"] == 1800.0, "one that only reports gives way"
    await a_policy(gateway, "user", idle_timeout_s=None, idle=None)
    await a_policy(gateway, "keypair", idle_timeout_s=None)
    assert await idle_of(gateway) == a_rule(600.0, dry_run=True)


async def test_a_batch_session_ends_by_itself_and_is_stopped_only_if_it_asks_for_it(gateway: Gateway) -> None:
    await a_policy(gateway, "user", idle_timeout_s=HOUR)
    assert (await gateway.submitted())["idle"] is None
    assert (await gateway.submitted(idle={"after_s": 2 * HOUR}))["idle"] == a_rule(2 * HOUR)


async def test_one_may_ask_for_less_idleness_than_the_policy_allows_and_not_for_more(gateway: Gateway) -> None:
    refused(await gateway.submit(**INTERACTIVE, idle={"cpu_percent": 9}), 400, "invalid-api-params")
    assert await idle_of(gateway, idle={"after_s": 60}) == a_rule(60.0)
    await a_policy(gateway, "project", idle_timeout_s=HOUR, idle={"net_bps": 1000})
    asked = {"after_s": 600, "cpu_percent": 10, "net_bps": 2000, "grace_s": 30}
    assert await idle_of(gateway, idle=asked) == a_rule(600.0, cpu_percent=10.0, net_bps=2000.0, grace_s=30.0)


@pytest.mark.parametrize(
    ("asked", "said", "limit"),
    [
        ({"after_s": 3601}, "3600 or less", 3600.0),
        ({"grace_s": 301}, "300 or less", 300.0),
        ({"cpu_percent": 4}, "5 or more", 5.0),
        ({"net_bps": 100}, "no such threshold", None),
        ({"dry_run": True}, "false", False),
    ],
    ids=str,
)
async def test_what_is_laxer_is_refused_with_what_is_allowed(
    gateway: Gateway, asked: dict[str, Any], said: str, limit: object
) -> None:
    await a_policy(gateway, "user", idle_timeout_s=HOUR)
    problem = refused(await gateway.submit(**INTERACTIVE, idle=asked), 409, "policy-ceiling")
    assert f"allowed is {said}" in problem["title"]
    assert f"user {ADA} by its policy default" in problem["title"]
    [(field, value)] = asked.items()
    assert problem["data"] == {
        "scope": "user",
        "name": ADA,
        "policy": "default",
        "field": f"idle.{field}",
        "ceiling": "idle",
        "limit": limit,
        "asked": value,
    }
    assert (await gateway.get("/session")).json()["total"] == 0


async def test_only_administrators_exempt_a_session(gateway: Gateway) -> None:
    assert await idle_of(gateway, idle={"exempt": True}) is None, "nobody forbids it"
    for who in ("user", "keypair"):
        await a_policy(gateway, who, idle_timeout_s=HOUR)
    problem = refused(await gateway.submit(**INTERACTIVE, idle={"exempt": True}), 403, "forbidden")
    assert problem["data"]["permission"] == "limit:update"
    assert await idle_of(gateway, await an_admin(gateway), idle={"exempt": True}) is None


@pytest.mark.parametrize(
    "idle",
    [{"after_s": 0}, {"after_s": 60, "cpu_percent": 101}, {"exempt": True, "after_s": 9}, {"net": 1}, "1h"],
    ids=str,
)
async def test_what_is_no_wish_is_refused(gateway: Gateway, idle: object) -> None:
    refused(await gateway.submit(**INTERACTIVE, idle=idle), 400, "invalid-api-params")


async def test_a_policy_that_measures_nothing_is_refused(gateway: Gateway) -> None:
    rule = {"cpu_percent": None, "device_percent": None}
    refused(await gateway.ask("PATCH", "/policy/user/default", {"idle": rule}), 400, "invalid-api-params")
    await a_limit(gateway, f"user/{ADA}", idle_timeout_s=60, idle={**rule, "net_bps": 100})
    assert await idle_of(gateway) == a_rule(60.0, cpu_percent=None, device_percent=None, net_bps=100.0)


async def a_running(gateway: Gateway, **wish: Any) -> dict[str, Any]:
    session = await gateway.submitted(**{**INTERACTIVE, **wish})
    await run(gateway, "UPDATE sessions SET status = 'RUNNING', started_at = now() WHERE id = :id", id=session["id"])
    return session


async def test_a_session_is_extended_by_its_workflow_and_the_audit_says_by_whom(gateway: Gateway) -> None:
    session = await a_running(gateway)
    answer = await gateway.ask("POST", f"/session/{session['name']}/extend", {"for": "2h"}, gateway.ada)
    assert answer.status_code == 200, answer.text
    assert answer.json()["kept_until"] is None, "the row is what the workflow has made of it"
    assert gateway.lives.asked == [(session["id"], "extend", Extend(7200.0, f"user:{ADA}"))]
    [line] = await audited(gateway, "session:update")
    assert (line["after"], line["outcome"]) == ({"extended_s": 7200.0}, "asked")


async def test_what_does_not_run_is_not_extended(gateway: Gateway) -> None:
    waiting = await gateway.submitted()
    problem = refused(
        await gateway.ask("POST", f"/session/{waiting['id']}/extend", {"for": "1h"}), 409, "session-not-running"
    )
    assert problem["data"] == {"status": "PENDING"}
    running = await a_running(gateway)
    gateway.lives.answer = Answer(False, "session-not-running", "the session is TERMINATING")
    problem = refused(
        await gateway.ask("POST", f"/session/{running['id']}/extend", {"for": "1h"}), 409, "session-not-running"
    )
    assert problem["title"] == "the session is TERMINATING"


async def test_the_longest_lifetime_of_its_owners_holds_for_an_extension_too(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_lifetime_s=4 * HOUR)
    session = await a_running(gateway, lifetime_s=4 * HOUR)
    await run(gateway, "UPDATE sessions SET started_at = now() - interval '3 hours'")
    problem = refused(
        await gateway.ask("POST", f"/session/{session['id']}/extend", {"for": "2h"}), 409, "extension-too-long"
    )
    assert f"it has lived for 3 h, extensions included, and user {ADA} allows 4 h (max_lifetime_s" in problem["title"]
    assert problem["data"]["limit_s"] == pytest.approx(HOUR, abs=60)
    assert gateway.lives.asked == []


async def test_what_lives_as_long_as_it_may_is_kept_from_idleness_within_that(gateway: Gateway) -> None:
    await a_policy(gateway, "user", max_lifetime_s=4 * HOUR)
    session = await a_running(gateway, lifetime_s=4 * HOUR)
    assert (await gateway.ask("POST", f"/session/{session['id']}/extend", {"for": "1h"})).status_code == 200
    [(_, update, wish)] = gateway.lives.asked
    assert isinstance(wish, Extend)
    assert (update, wish.seconds, wish.most_s) == ("extend", 3600.0, 4.0 * HOUR)


async def test_only_administrators_extend_by_more_than_a_week(gateway: Gateway) -> None:
    session = await a_running(gateway)
    path = f"/session/{session['id']}/extend"
    refused(await gateway.ask("POST", path, {"for": "8d"}, gateway.ada), 409, "extension-too-long")
    await run(gateway, "UPDATE sessions SET kept_until = now() + interval '6 days'")
    problem = refused(await gateway.ask("POST", path, {"for": "2d"}, gateway.ada), 409, "extension-too-long")
    assert "it is extended by 6 d already" in problem["title"].replace("5 d 23 h", "6 d")
    assert (await gateway.ask("POST", path, {"for": "300d"})).status_code == 200


@pytest.mark.parametrize("words", ["", "0s", "-1h", "soon", "366d", "2"])
async def test_what_is_no_length_of_time_is_refused(gateway: Gateway, words: str) -> None:
    session = await a_running(gateway)
    refused(await gateway.ask("POST", f"/session/{session['id']}/extend", {"for": words}), 400, "malformed-time")


@pytest.fixture
async def cluster(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(gateway, tmp_path)
    await cluster.add("n1")
    yield cluster
    await cluster.close()


async def test_who_is_idle_is_shown_with_what_is_low_and_when_it_ends(gateway: Gateway, cluster: Cluster) -> None:
    async def hear(session_id: str, report: IdleReport) -> None:
        assert report.stage in ("active", "warned"), report

    policy = {"after_s": 60, "cpu_percent": 60, "grace_s": 600}
    await cluster.add("n2", SilentNode())
    watched = [await gateway.submitted(**INTERACTIVE, idle=policy) for _ in range(3)]
    await gateway.submitted(**INTERACTIVE)
    for session, node in zip(watched, ("n1", "n1", "n2"), strict=True):
        await cluster.run(session, node, idle=IdlePolicy(60.0, cpu_percent=60.0, grace_s=600.0))
    for _ in range(30):
        await cluster.pass_time(5, hear)
    kept = datetime(2100, 1, 1, tzinfo=UTC)
    async with gateway.engine.begin() as connection:
        await connection.execute(
            text("UPDATE sessions SET kept_until = :kept WHERE id = :id"), {"kept": kept, "id": watched[1]["id"]}
        )

    found = (await gateway.get("/idle")).json()
    assert (found["total"], found["unanswered"]) == (3, ["n2"])
    first, second, unknown = found["items"]
    assert [one["id"] for one in (first, second, unknown)] == [one["id"] for one in watched]
    assert (first["stage"], first["user"], first["idle"]["after_s"]) == ("warned", ADA, 60.0)
    assert "% of" in first["low"]
    assert first["idle_since"] < datetime.now(UTC).isoformat() < first["stops_at"]
    assert second["stops_at"] == kept.isoformat(timespec="seconds")
    assert (unknown["stage"], unknown["idle_since"], unknown["stops_at"]) == ("unknown", None, None)
    assert (await gateway.get("/idle", gateway.bob)).json()["items"] == []
