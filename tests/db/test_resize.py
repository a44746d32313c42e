"""Resizes in the ledger: what is held while they go on, what refuses them, and what is left of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from activities.sessions import LedgerSessions
from moorage.contracts.activities import Again, Requeue, Reserved, ReserveResize, SettleResize
from moorage.db import devices, ledger, nodes, placements, resize, sessions
from moorage.db.invariants import violations
from moorage.db.snapshots import read_snapshot
from moorage.domain.node import Device
from moorage.domain.session import Ending, Reason, SessionStatus
from moorage.scheduler.decide import decide
from moorage.scheduler.snapshot import Policy
from moorage.seal import Seal
from tests.support.builders import GIB, KEYS, a_pending_session, a_user, an_agent

SEAL = Seal(KEYS)
GPUS = [Device(f"gpu{n}", "cuda.device", numa=n // 2) for n in range(4)]
SHARES = [Device(f"part{n}", "cuda.shares", total=100) for n in range(2)]


async def run(engine: AsyncEngine, statement: str, **values: object) -> None:
    async with engine.begin() as connection:
        await connection.execute(text(statement), values)


async def place(engine: AsyncEngine) -> int:
    epoch = await placements.take_epoch(engine, "default")
    decisions = decide(await read_snapshot(engine, "default"), Policy())
    return len(await placements.commit_decisions(engine, "default", epoch, decisions, SEAL))


async def a_running(engine: AsyncEngine, user_id: str = "", **wish: object) -> str:
    session_id, _ = await a_pending_session(engine, user_id or await a_user(engine), **wish)  # type: ignore[arg-type]
    assert await place(engine) == 1
    await start(engine, session_id)
    return session_id


async def start(engine: AsyncEngine, session_id: str, attempt: int = 0) -> None:
    async with engine.connect() as connection:
        found = await connection.execute(
            text("SELECT id::text FROM kernels WHERE session_id = :id"), {"id": session_id}
        )
        containers = dict.fromkeys(found.scalars(), "c")
    assert await ledger.record_started(engine, session_id, attempt, containers, "on n1")


async def reserved(
    engine: AsyncEngine, session_id: str, slots: Mapping[str, int], *, attempt: int = 0, move: bool = False
) -> Reserved:
    asked = {"cpu": 1000, "mem": GIB, **slots}
    return await LedgerSessions(engine, SEAL).reserve_resize(ReserveResize(session_id, attempt, asked, "ada", move))


async def settled(
    engine: AsyncEngine, session_id: str, slots: Mapping[str, int], *, reason: Reason = Reason.RESIZED
) -> bool:
    asked = {"cpu": 1000, "mem": GIB, **slots}
    return await LedgerSessions(engine, SEAL).settle_resize(SettleResize(session_id, 0, asked, reason, "words"))


async def used(engine: AsyncEngine, agent_id: str = "n1") -> dict[str, int]:
    async with engine.connect() as connection:
        query = text("SELECT slot, used FROM agent_slots WHERE agent_id = :agent")
        return {row.slot: row.used for row in await connection.execute(query, {"agent": agent_id})}


async def used_devices(engine: AsyncEngine) -> dict[str, int]:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT device_id, used FROM devices WHERE used > 0 ORDER BY device_id"))
        return {row.device_id: row.used for row in rows}


async def shown(engine: AsyncEngine, session_id: str) -> tuple[str, int, dict[str, int]]:
    row = await sessions.by_id(engine, session_id)
    assert row is not None
    return row["status"], row["attempt"], row["slots"]


async def test_growth_is_held_before_the_container_grows(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine)
    found = await reserved(engine, session_id, {"cpu": 3000})
    assert (found.refused, found.restart, found.elsewhere) == (None, False, False)
    assert found.before == {"cpu": 1000, "mem": GIB}
    assert (await used(engine))["cpu"] == 3000
    assert await shown(engine, session_id) == ("RESIZING", 0, {"cpu": 1000, "mem": GIB})
    assert await settled(engine, session_id, {"cpu": 3000})
    assert await shown(engine, session_id) == ("RUNNING", 0, {"cpu": 3000, "mem": GIB})
    last = (await sessions.events(engine, session_id))[-2:]
    assert [(one["to_status"], one["reason"], one["message"], one["actor"]) for one in last] == [
        ("RESIZING", "", "cpu 1 → 3", "ada"),
        ("RUNNING", "resized", "words", "workflow"),
    ]
    assert await violations(database_url) == []


async def test_what_shrinks_is_free_only_when_it_has_shrunk(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine, cpu=3000)
    await reserved(engine, session_id, {"cpu": 500, "mem": 2 * GIB})
    assert await used(engine) == {"cpu": 3000, "mem": 2 * GIB}
    assert await violations(database_url) == []
    await settled(engine, session_id, {"cpu": 500, "mem": 2 * GIB})
    assert await used(engine) == {"cpu": 500, "mem": 2 * GIB}
    assert await violations(database_url) == []


async def test_a_resize_that_the_node_refuses_is_undone(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine)
    found = await reserved(engine, session_id, {"cpu": 2000})
    assert await settled(engine, session_id, found.before, reason=Reason.RESIZE_REFUSED)
    assert await shown(engine, session_id) == ("RUNNING", 0, {"cpu": 1000, "mem": GIB})
    assert (await used(engine))["cpu"] == 1000
    assert await violations(database_url) == []


async def test_each_step_twice_is_the_same_as_once(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running(engine, slots={"cuda.device": 1})
    wish = {"cpu": 2000, "cuda.device": 2}
    assert await reserved(engine, session_id, wish) == await reserved(engine, session_id, wish)
    assert (await used(engine), len(await used_devices(engine))) == (
        {"cpu": 2000, "mem": GIB, "cuda.device": 2},
        2,
    )
    for _ in range(2):
        assert await settled(engine, session_id, {"cuda.device": 1}, reason=Reason.RESIZE_REFUSED)
    assert await used(engine) == {"cpu": 1000, "mem": GIB, "cuda.device": 1}
    assert len(await used_devices(engine)) == 1
    assert len(await sessions.events(engine, session_id)) == 6
    assert not await settled(engine, session_id, {"cpu": 9000, "cuda.device": 1}), "nothing is being resized"
    assert await violations(database_url) == []


async def test_more_than_the_node_has_is_refused_with_what_is_possible(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    user = await a_user(engine)
    session_id, _ = [await a_running(engine, user) for _ in range(2)]
    found = await reserved(engine, session_id, {"cpu": 4000})
    assert found.refused is not None
    assert (found.refused.done, found.refused.code) == (False, "no-room-on-node")
    assert found.refused.message == "asked cpu 4; node n1 has cpu 2 free; possible there is cpu 3"
    assert found.refused.data == {
        "asked": {"cpu": 4000}, "node": "n1", "free": {"cpu": 2000}, "possible": {"cpu": 3000},
    }  # fmt: skip
    assert "--move" in found.refused.hint
    assert await shown(engine, session_id) == ("RUNNING", 0, {"cpu": 1000, "mem": GIB})
    assert (await reserved(engine, session_id, {"cpu": 4000}, move=True)).elsewhere
    assert await shown(engine, session_id) == ("RUNNING", 0, {"cpu": 1000, "mem": GIB})
    never = await reserved(engine, session_id, {"cpu": 5000}, move=True)
    assert never.refused is not None
    assert (never.refused.code, never.elsewhere) == ("unsatisfiable", False)
    assert (await reserved(engine, session_id, {"cpu": 3000})).refused is None


async def test_a_session_that_moves_asks_its_new_slots_in_the_queue(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine)
    await LedgerSessions(engine, SEAL).requeue_session(
        Requeue(session_id, 0, Reason.RESIZED, "moves", "", slots={"cpu": 2000, "mem": GIB})
    )
    assert await shown(engine, session_id) == ("PENDING", 1, {"cpu": 2000, "mem": GIB})
    assert await place(engine) == 1
    assert (await used(engine))["cpu"] == 2000
    assert await violations(database_url) == []


@pytest.mark.parametrize(
    ("slots", "code"),
    [
        ({"cpu": 1}, "malformed-size"),
        ({"tpu.device": 1}, "unknown-slot"),
        ({"cuda.device": 1, "cuda.shares": 50}, "exclusive-slots"),
    ],
)
async def test_what_no_session_may_ask_is_refused(engine: AsyncEngine, slots: dict[str, int], code: str) -> None:
    await nodes.register(engine, an_agent(devices=[*GPUS, *SHARES]))
    refused = (await reserved(engine, await a_running(engine), slots)).refused
    assert refused is not None
    assert refused.code == code


async def test_only_what_runs_is_resized(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine)
    await ledger.finish(engine, session_id, Ending(SessionStatus.TERMINATED, Reason.SELF_TERMINATED), actor="workflow")
    refused = (await reserved(engine, session_id, {"cpu": 2000})).refused
    assert refused is not None
    assert (refused.code, "is TERMINATED" in refused.message) == ("session-not-running", True)
    assert not await settled(engine, session_id, {"cpu": 2000})


@pytest.mark.parametrize(
    "limit",
    [
        """INSERT INTO limits (scope, name, max_slots) VALUES ('user', 'ada@example.org', '{"cpu": 2500}')""",
        """INSERT INTO limits (scope, name, max_slots) VALUES ('project', 'default/default', '{"cpu": 2500}')""",
        """INSERT INTO limits (scope, name, max_slots) VALUES ('domain', 'default', '{"cpu": 2500}')""",
        """UPDATE policies SET max_slots = '{"cpu": 2500}' WHERE kind = 'user' AND name = 'default'""",
    ],
    ids=["user", "project", "domain", "policy"],
)
async def test_growth_stays_within_what_every_owner_may_hold(engine: AsyncEngine, limit: str) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine)
    await run(engine, limit)
    refused = (await reserved(engine, session_id, {"cpu": 3000})).refused
    assert refused is not None
    assert refused.code == "quota-exceeded"
    assert (refused.data["asked"], refused.data["now"], refused.data["limit"]) == (2000, 1000, 2500)
    assert (await reserved(engine, session_id, {"cpu": 2500})).refused is None


async def test_a_session_beyond_a_limit_may_shrink(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine, cpu=3000)
    await run(engine, """INSERT INTO limits (scope, name, max_slots) VALUES ('domain', 'default', '{"cpu": 500}')""")
    assert (await reserved(engine, session_id, {"cpu": 2000})).refused is None


async def test_room_that_was_made_for_somebody_else_is_not_taken(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    user = await a_user(engine)
    session_id = await a_running(engine, user)
    waiting, kernel_id = await a_pending_session(engine, user, cpu=2000)
    await run(
        engine,
        "INSERT INTO holds VALUES (:id, 'default', CAST(:kernels AS jsonb), '{}', 'requeue', now() + interval '1 h')",
        id=waiting,
        kernels=f'{{"{kernel_id}": "n1"}}',
    )
    refused = (await reserved(engine, session_id, {"cpu": 4000})).refused
    assert refused is not None
    assert refused.data["possible"] == {"cpu": 2000}


async def test_more_accelerators_are_held_beside_and_near_until_the_restart(
    engine: AsyncEngine, database_url: str
) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running(engine, slots={"cuda.device": 1})
    assert await used_devices(engine) == {"gpu0": 1}
    found = await reserved(engine, session_id, {"cuda.device": 2, "cpu": 2000})
    assert (found.refused, found.restart) == (None, True)
    assert await used_devices(engine) == {"gpu0": 1, "gpu1": 1}
    state = await LedgerSessions(engine, SEAL).session_state(session_id)
    assert [kernel.devices for kernel in state.kernels] == [{"gpu0": 1}], "its container has no other"
    assert await violations(database_url) == []
    again = Again(session_id, 0, {"cpu": 2000, "mem": GIB, "cuda.device": 2})
    for _ in range(2):
        placed = await LedgerSessions(engine, SEAL).place_again(again)
        assert (placed.attempt, [kernel.devices for kernel in placed.kernels]) == (1, [{"gpu0": 1, "gpu1": 1}])
    await start(engine, session_id, attempt=1)
    assert await shown(engine, session_id) == ("RUNNING", 1, again.slots)
    assert await used(engine) == again.slots
    assert await violations(database_url) == []


async def test_fewer_accelerators_are_let_go_at_the_restart(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running(engine, slots={"cuda.device": 3})
    assert (await reserved(engine, session_id, {"cuda.device": 1})).restart
    assert len(await used_devices(engine)) == 3
    await LedgerSessions(engine, SEAL).place_again(Again(session_id, 0, {"cpu": 1000, "mem": GIB, "cuda.device": 1}))
    assert len(await used_devices(engine)) == 1
    assert (await reserved(engine, session_id, {})).refused is not None, "it is on its way"
    await start(engine, session_id, attempt=1)
    assert (await reserved(engine, session_id, {}, attempt=1)).restart
    await LedgerSessions(engine, SEAL).place_again(Again(session_id, 1, {"cpu": 1000, "mem": GIB}))
    assert await used_devices(engine) == {}
    assert await violations(database_url) == []


async def test_a_larger_part_of_a_device_is_of_the_same_device(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=SHARES))
    session_id = await a_running(engine, slots={"cuda.shares": 50})
    [mine] = await used_devices(engine)
    await reserved(engine, session_id, {"cuda.shares": 80})
    assert await used_devices(engine) == {mine: 80}
    assert await violations(database_url) == []
    again = Again(session_id, 0, {"cpu": 1000, "mem": GIB, "cuda.shares": 80})
    [kernel] = (await LedgerSessions(engine, SEAL).place_again(again)).kernels
    assert kernel.devices == {mine: 80}
    assert await violations(database_url) == []


async def test_a_device_that_falls_ill_before_the_restart_is_not_given(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS[:2]))
    session_id = await a_running(engine, slots={"cuda.device": 1})
    await reserved(engine, session_id, {"cuda.device": 2, "cpu": 2000})
    await devices.note_health(engine, "n1", [GPUS[0], replace(GPUS[1], healthy=False, reason="XID 79")])
    again = Again(session_id, 0, {"cpu": 2000, "mem": GIB, "cuda.device": 2})
    [kernel] = (await LedgerSessions(engine, SEAL).place_again(again)).kernels
    assert (kernel.devices, kernel.slots) == ({"gpu0": 1}, {"cpu": 2000, "mem": GIB, "cuda.device": 1})
    last = (await sessions.events(engine, session_id))[-1]
    assert (last["to_status"], last["reason"]) == ("RESTARTING", "resize-refused")
    assert "serve no more" in last["message"]
    await start(engine, session_id, attempt=1)
    assert await violations(database_url) == []


async def test_more_accelerators_than_are_free_are_refused(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent(devices=GPUS[:3]))
    user = await a_user(engine)
    session_id = await a_running(engine, user, slots={"cuda.device": 1})
    await a_running(engine, user, slots={"cuda.device": 1})
    refused = (await reserved(engine, session_id, {"cuda.device": 3})).refused
    assert refused is not None
    assert refused.message == "asked cuda.device 3; node n1 has cuda.device 1 free; possible there is cuda.device 2"


async def test_every_kernel_of_a_gang_is_resized_on_its_node(engine: AsyncEngine, database_url: str) -> None:
    for name in ("n1", "n2"):
        await nodes.register(engine, an_agent(name, cpu=3000, devices=GPUS[:2]))
    gang = await a_running(engine, kernels=3, cluster_mode="multi-node")
    assert sorted([(await used(engine, name))["cpu"] for name in ("n1", "n2")]) in ([0, 3000], [1000, 2000])
    refused = (await reserved(engine, gang, {"cpu": 1500})).refused
    assert refused is not None
    assert refused.code == "no-room-on-node"
    assert (await reserved(engine, gang, {"cpu": 500})).refused is None
    assert await settled(engine, gang, {"cpu": 500})
    assert sum([(await used(engine, name))["cpu"] for name in ("n1", "n2")]) == 1500
    assert await violations(database_url) == []


async def test_an_end_in_the_middle_of_a_resize_leaves_nothing_held(engine: AsyncEngine, database_url: str) -> None:
    await nodes.register(engine, an_agent(devices=GPUS))
    session_id = await a_running(engine, slots={"cuda.device": 1})
    await reserved(engine, session_id, {"cuda.device": 3, "cpu": 2000})
    done = Ending(SessionStatus.TERMINATED, Reason.USER_REQUESTED)
    await ledger.finish(engine, session_id, done, actor="ada")
    assert set((await used(engine)).values()) == {0}
    assert await used_devices(engine) == {}
    assert await violations(database_url) == []


async def test_past_use_counts_as_it_was(engine: AsyncEngine) -> None:
    await nodes.register(engine, an_agent())
    session_id = await a_running(engine, cpu=3000)
    await run(
        engine, "UPDATE allocations SET allocated_at = now() - interval '1 hour' WHERE session_id = :id", id=session_id
    )
    await reserved(engine, session_id, {"cpu": 1000})
    await settled(engine, session_id, {"cpu": 1000})
    used = {
        tenant.name: tenant.decayed["cpu"]
        for tenant in (await read_snapshot(engine, "default", half_life_s=1e9)).tenants
    }
    assert used["default"] == pytest.approx(3000 * 3600, rel=0.01)


async def test_words_name_what_becomes_different() -> None:
    assert resize.words({"cpu": 1000, "mem": GIB}, {"cpu": 2500, "mem": GIB, "cuda.device": 2}) == (
        "cpu 1 → 2.5, cuda.device 0 → 2"
    )
