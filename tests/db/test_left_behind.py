"""A session whose workflow vanished, in whatever status that was: the reaper finds it, and its end is a clean one."""

from __future__ import annotations

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from moorage.db import ledger
from moorage.db.invariants import violations
from moorage.domain.session import HOLDS_RESOURCES, Ending, Reason, SessionResult, SessionStatus
from tests.db.test_invariants import a_placed_session, make_older

_S = SessionStatus
WAYS = {
    _S.SCHEDULED: [],
    _S.PREPARING: [_S.PREPARING],
    _S.CREATING: [_S.CREATING],
    _S.RUNNING: [_S.CREATING, _S.RUNNING],
    _S.RESTARTING: [_S.CREATING, _S.RUNNING, _S.RESTARTING],
    _S.RESIZING: [_S.CREATING, _S.RUNNING, _S.RESIZING],
    _S.TERMINATING: [_S.TERMINATING],
}
ENDED = Ending(_S.ERROR, Reason.CANCELLED_BY_ADMIN, "its workflow was terminated from outside", SessionResult.FAILURE)


def test_every_status_that_holds_something_is_tried() -> None:
    assert set(WAYS) == HOLDS_RESOURCES


@pytest.mark.parametrize("status", WAYS, ids=str)
async def test_it_is_found_and_ended(status: SessionStatus, engine: AsyncEngine, database_url: str) -> None:
    session_id, _ = await a_placed_session(engine)
    for step in WAYS[status]:
        assert await ledger.move(engine, session_id, 0, step)
    assert await ledger.without_workflow(engine, 10) == [], "it may be on its way"
    await make_older(engine, session_id)
    [found] = await ledger.without_workflow(engine, 10)
    assert (str(found["id"]), found["status"]) == (session_id, status)
    assert await ledger.finish(engine, session_id, ENDED, actor="workflow") == _S.ERROR
    assert await violations(database_url) == []
