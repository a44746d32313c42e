"""A session's life goes on under the code of today, whatever code it began under."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from temporalio import workflow
from temporalio.client import Client, WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from moorage.contracts.activities import SessionInput
from moorage.temporal import data_converter, workflow_runner
from tests.replay.lives import STORIES, history_of, replayer, temporal
from tests.replay.record import HISTORIES
from tests.support.builders import KEYS

RECORDED = sorted(HISTORIES.glob("*/*.json"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[Client]:
    async with temporal() as client:
        yield client


def recorded(path: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(path.stem, path.read_text())


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", STORIES)
async def test_a_life_of_today_is_replayed(name: str, client: Client) -> None:
    await replayer().replay_workflow(await history_of(client, STORIES[name]))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}-{path.stem}")
async def test_a_life_of_a_release_is_replayed(path: Path) -> None:
    await replayer().replay_workflow(recorded(path))


def test_each_story_is_recorded() -> None:
    assert {path.stem for path in RECORDED} >= set(STORIES)


@workflow.defn(name="SessionWorkflow", sandboxed=False)
class Hasty:
    """Acts in another order than the recorded code."""

    @workflow.run
    async def run(self, session: SessionInput) -> str:
        await workflow.sleep(timedelta(seconds=1))
        return "TERMINATED"


async def test_a_life_that_the_code_would_live_otherwise_is_told() -> None:
    other = Replayer(workflows=[Hasty], workflow_runner=workflow_runner(), data_converter=data_converter(KEYS))
    with pytest.raises(NondeterminismError):
        await other.replay_workflow(recorded(RECORDED[0]))
