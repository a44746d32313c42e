"""How a session is to be checked and started again, as the API takes and shows it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

from moorage.db import ledger
from moorage.domain.session import Ending, Reason, SessionResult, SessionStatus
from tests.support.gateway import Gateway, refused

CRASHED = Ending(SessionStatus.ERROR, Reason.CRASH_LOOP, "exit code 1", SessionResult.FAILURE, 1)


async def test_what_was_asked_is_shown_with_its_defaults(gateway: Gateway) -> None:
    health = {"start": {"command": ["test", "-f", "/ready"]}, "live": {"port": 8080, "every_s": 2, "failures": 1}}
    made = await gateway.submitted(
        type="interactive", command=[], health=health, restart_policy="always", max_restarts=7
    )
    found = (await gateway.get(f"/session/{made['id']}")).json()
    assert (found["restart_policy"], found["max_restarts"], found["restarts"]) == ("always", 7, 0)
    start = {"command": ["test", "-f", "/ready"], "port": 0, "every_s": 10, "timeout_s": 5, "failures": 3}
    live = {"command": [], "port": 8080, "every_s": 2, "timeout_s": 5, "failures": 1}
    assert found["health"] == {"start": start, "live": live, "start_within_s": 60}
    assert (found["health_status"], found["kernels"][0]["health"]) == ("", "")
    plain = await gateway.submitted()
    assert (plain["health"], plain["restart_policy"]) == (None, "never")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"health": {}}, "health needs a probe: start, live or both"),
    ({"health": {"live": {}}}, "a probe is either a command or a port"),
    ({"health": {"live": {"command": ["true"], "port": 80}}}, "either a command or a port; both were given"),
    ({"health": {"live": {"port": 0}}}, "health.live.port"),
    ({"health": {"live": {"port": 65536}}}, "health.live.port"),
    ({"health": {"live": {"port": 80, "every_s": 0.5}}}, "health.live.every_s"),
    ({"health": {"live": {"port": 80, "timeout_s": 0}}}, "health.live.timeout_s"),
    ({"health": {"live": {"port": 80, "failures": 0}}}, "health.live.failures"),
    ({"health": {"live": {"port": 80, "retries": 3}}}, "health.live.retries: there is no such field"),
    ({"health": {"start": {"command": ["a\0b"]}}}, "health.start.command.0"),
    ({"health": {"live": {"port": 80}, "start_within_s": 0}}, "health.start_within_s"),
    ({"restart_policy": "sometimes"}, "restart_policy"),
    ({"restart_policy": "always"}, "a batch session is over when its command is"),
    ({"max_restarts": 3}, "max_restarts needs a restart_policy"),
    ({"restart_policy": "on-failure", "max_restarts": -1}, "max_restarts"),
]


async def test_what_contradicts_itself_or_has_no_bounds_is_refused(gateway: Gateway) -> None:
    for wish, words in REFUSED:
        answer = await gateway.submit(**{"type": "batch", "command": ["true"], **wish})
        assert words in refused(answer, 400, "invalid-api-params")["title"], wish


async def test_the_last_lines_are_for_those_who_may_read_the_log(gateway: Gateway) -> None:
    made = await gateway.submitted()
    await ledger.finish(gateway.engine, made["id"], CRASHED, actor="test", last_lines="Traceback:\nout of ideas")
    assert (await gateway.get(f"/session/{made['id']}")).json()["last_lines"] == "Traceback:\nout of ideas"
    waited = await gateway.get(f"/session/{made['id']}", wait_from="PENDING", wait_s="1")
    assert waited.json()["last_lines"] == "Traceback:\nout of ideas"
    answer = await gateway.http.post(
        "/token", json={"name": "reads", "permissions": ["session:read"]}, headers=gateway.ada
    )
    reader = {"Authorization": f"Bearer {answer.json()['token']}"}
    assert (await gateway.get(f"/session/{made['id']}", reader)).json()["last_lines"] == ""
    listed = (await gateway.get("/session", all="true")).json()["items"]
    assert all("last_lines" not in one for one in listed)


async def test_a_list_says_how_well_each_is(gateway: Gateway) -> None:
    made = await gateway.submitted(health={"live": {"port": 8080}})
    async with gateway.engine.begin() as connection:
        values = {"id": made["id"]}
        await connection.execute(text("UPDATE kernels SET health = 'unhealthy' WHERE session_id = :id"), values)
    [listed] = (await gateway.get("/session")).json()["items"]
    assert listed["health_status"] == "unhealthy"
