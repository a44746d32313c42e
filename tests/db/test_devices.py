"""Devices' health in the ledger, and what their holders are told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.agents import LedgerAgents
from moorage.contracts.activities import AgentReport
from moorage.db import agents, devices, ledger, nodes, placements, sessions
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.node import Device
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import GIB, KEYS, a_pending_session, a_user, an_agent

GPUS = [Device(f"gpu{n}", "cuda.device", numa=0, model="H100", memory=80 * GIB) for n in range(2)]
LOST = "it does not answer: GPU is lost"


def sick(device: Device, reason: str = LOST) -> Device:
    return replace(device, healthy=False, reason=reason)


async def place(engine: AsyncEngine) -> int:
    """How many sessions found room."""
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    return len(await placements.commit_decisions(engine, "default", epoch, decisions, Seal(KEYS)))


async def a_running_session(engine: AsyncEngine, user_id: str, *, gpus: int = 1) -> str:
    session_id, kernel_id = await a_pending_session(engine, user_id, slots={"cuda.device": gpus})
    assert await place(engine) == 1
    await ledger.record_started(engine, session_id, 0, {kernel_id: "c"}, "on n1")
    return session_id


async def held_by(engine: AsyncEngine, session_id: str) -> list[str]:
    async with engine.connect() as connection:
        query = text("SELECT d.device_id FROM device_allocations d JOIN kernels k ON k.id = d.kernel_id"
                     " WHERE k.session_id = :id ORDER BY 1")  # fmt: skip
        return list((await connection.execute(query, {"id": session_id})).scalars())


async def told(engine: AsyncEngine, session_id: str) -> list[str]:
    events = await sessions.events(engine, session_id)
    assert all(e["from_status"] == e["to_status"] for e in events if e["reason"] == Reason.DEVICE_HEALTH)
    return [str(event["message"]) for event in events if event["reason"] == Reason.DEVICE_HEALTH]


async def shown(engine: AsyncEngine) -> dict[str, tuple[bool, str]]:
    return {one["id"]: (one["healthy"], one["reason"]) for one in (await agents.get(engine, "n1"))["devices"]}


async def test_a_device_is_shown_as_its_agent_describes_it(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=[GPUS[0], sick(GPUS[1])]))
    first, second = (await agents.get(engine, "n1"))["devices"]
    assert (first["model"], first["memory"], first["numa"], first["healthy"]) == ("H100", 80 * GIB, 0, True)
    assert (second["healthy"], second["reason"]) == (False, LOST)
    assert second["health_changed"]


async def test_the_holder_of_a_device_that_turns_unhealthy_is_told_and_goes_on(
    engine: AsyncEngine, database_url: str
) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    user_id = await a_user(engine)
    holder, other = [await a_running_session(engine, user_id) for _ in range(2)]
    [held] = await held_by(engine, holder)
    now = [sick(gpu) if gpu.device_id == held else gpu for gpu in GPUS]
    assert [one.device_id for one in await devices.note_health(engine, "n1", now)] == [held]
    message = f"device {held} of node n1 is unhealthy: {LOST}"
    assert await told(engine, holder) == [message]
    assert await told(engine, other) == []
    row = await sessions.by_id(engine, holder)
    assert row is not None
    assert (row["status"], row["status_info"]) == ("RUNNING", message)
    assert await violations(database_url) == []


async def test_what_is_known_already_is_told_nobody(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS[:1]))
    session_id = await a_running_session(engine, await a_user(engine))
    await devices.note_health(engine, "n1", [sick(GPUS[0])])
    assert await devices.note_health(engine, "n1", [sick(GPUS[0], "another reason")]) == []
    await nodes.register(engine, an_agent(devices=[sick(GPUS[0], "another reason")]))
    assert len(await told(engine, session_id)) == 1
    assert await shown(engine) == {"gpu0": (False, "another reason")}


async def test_a_device_that_comes_back_is_healthy_again(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS[:1]))
    session_id = await a_running_session(engine, await a_user(engine))
    await devices.note_health(engine, "n1", [sick(GPUS[0])])
    await devices.note_health(engine, "n1", [replace(GPUS[0], reason="forgotten")])
    assert (await told(engine, session_id))[-1] == "device gpu0 of node n1 is healthy again"
    assert await shown(engine) == {"gpu0": (True, "")}


async def test_a_fault_that_is_found_at_registration_is_told(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running_session(engine, await a_user(engine), gpus=2)
    await nodes.register(engine, an_agent(devices=[sick(GPUS[0], "XID 79")]))
    [message] = await told(engine, session_id)
    assert message == (
        "device gpu0 of node n1 is unhealthy: XID 79; device gpu1 of node n1 is unhealthy: the node has it no more"
    )
    assert await shown(engine) == {"gpu0": (False, "XID 79"), "gpu1": (False, devices.GONE)}


async def test_an_unhealthy_device_takes_nothing_new_until_it_is_well(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=[sick(GPUS[0])]))
    await a_pending_session(engine, await a_user(engine), slots={"cuda.device": 1})
    assert await place(engine) == 0
    await devices.note_health(engine, "n1", GPUS[:1])
    assert await place(engine) == 1


async def test_a_session_that_has_ended_or_is_about_to_is_told_nothing(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    user_id = await a_user(engine)
    ended, ending = [await a_running_session(engine, user_id) for _ in range(2)]
    done = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED)
    await ledger.finish(engine, ended, done, actor="workflow")
    await ledger.move(engine, ending, 0, SessionStatus.TERMINATING, message="stops: user-requested")
    await devices.note_health(engine, "n1", [sick(gpu) for gpu in GPUS])
    assert [await told(engine, ended), await told(engine, ending)] == [[], []]
    await ledger.finish(engine, ending, done, actor="workflow")
    assert await violations(database_url) == []


async def test_a_held_device_is_not_offered_otherwise_until_it_is_free(engine: AsyncEngine) -> None:
    shares = replace(GPUS[0], slot="cuda.shares", total=100)
    await nodes.register(engine, an_agent(devices=GPUS[:1]))
    user_id = await a_user(engine)
    holder = await a_running_session(engine, user_id)
    await nodes.register(engine, an_agent(devices=[shares]))
    await a_pending_session(engine, user_id, slots={"cuda.shares": 50})
    assert await place(engine) == 0, "its holder has all of it"
    await ledger.finish(engine, holder, Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED), actor="workflow")
    await nodes.register(engine, an_agent(devices=[shares]))
    assert await place(engine) == 1


async def test_devices_of_other_nodes_stay_as_they_are(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent("n1", devices=GPUS[:1]))
    await nodes.register(engine, an_agent("n2", devices=GPUS[:1]))
    await devices.note_health(engine, "n2", [sick(GPUS[0])])
    assert await shown(engine) == {"gpu0": (True, "")}


async def test_an_end_and_a_fault_at_the_same_time_both_happen(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    user_id = await a_user(engine)
    running = [await a_running_session(engine, user_id) for _ in range(2)]
    done = Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED)
    await asyncio.gather(
        *(ledger.finish(engine, one, done, actor="workflow") for one in running),
        devices.note_health(engine, "n1", [sick(gpu) for gpu in GPUS]),
        nodes.register(engine, an_agent(devices=[sick(gpu) for gpu in GPUS])),
    )
    assert {(await sessions.by_id(engine, one) or {})["status"] for one in running} == {"TERMINATED"}
    assert {healthy for healthy, _ in (await shown(engine)).values()} == {False}
    assert await violations(database_url) == []


async def test_a_step_that_leads_nowhere_is_a_violation_but_for_a_devices_health(
    engine: AsyncEngine, database_url: str
) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running_session(engine, await a_user(engine))
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO transitions SELECT session_id, seq + 1, to_status, to_status, now(), 'x', '', '', 0"
                " FROM transitions WHERE session_id = :id ORDER BY seq DESC LIMIT 1"
            ),
            {"id": session_id},
        )
    assert any("from RUNNING to RUNNING" in str(one) for one in await violations(database_url))


class NoLives:
    async def tell(self, session_id: str, signal: str, message: object) -> bool:
        raise AssertionError(f"{session_id} was told {signal}")


async def test_a_report_carries_the_health_and_one_without_devices_says_nothing_of_it(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    reports = LedgerAgents(engine, NoLives())
    await reports.reconcile_agent(AgentReport("n1", "i", [], [], [sick(GPUS[0]), GPUS[1]]))
    await reports.reconcile_agent(AgentReport("n1", "i", []))
    assert await shown(engine) == {"gpu0": (False, LOST), "gpu1": (True, "")}


@pytest.mark.parametrize("reason", ["", "Ω" * 400, "it's; DROP TABLE devices"])
async def test_any_reason_is_kept(reason: str, engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS[:1]))
    try:
        await devices.note_health(engine, "n1", [sick(GPUS[0], reason)])
    except DBAPIError as error:
        pytest.fail(str(error))
    assert await shown(engine) == {"gpu0": (False, reason)}
