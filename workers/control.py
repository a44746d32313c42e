"""The control worker: all workflows, and the activities that need the database. Run as many as you like."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
)
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.agents import LedgerAgents
from activities.images import LedgerImages
from activities.lives import TemporalLives
from activities.maintenance import Reaping
from activities.scheduling import Scheduling
from activities.sessions import LedgerSessions
from moorage import log
from moorage.contracts import names
from moorage.contracts.activities import (
    AgentActivities,
    MaintenanceActivities,
    SessionActivities,
    registered,
)
from moorage.contracts.images import ImageActivities
from moorage.contracts.shown import Shown
from moorage.db.engine import connect as connect_database
from moorage.db.engine import migrate
from moorage.domain.errors import MoorageError
from moorage.seal import Seal
from moorage.session_start import start_scheduler
from moorage.settings import Settings, load_settings, require
from moorage.temporal import connect, workflow_runner
from workflows.agent import AgentWorkflow
from workflows.images import ImageWorkflow
from workflows.scheduler import ReaperWorkflow, SchedulerWorkflow
from workflows.session import SessionWorkflow

_REAP_EVERY = timedelta(seconds=20)

_log = log.get("worker")


def build_worker(settings: Settings, client: Client, engine: AsyncEngine) -> Worker:
    """A worker of the control queue."""
    seal = Seal(settings.payload_keys)
    return Worker(
        client,
        task_queue=names.CONTROL_QUEUE,
        identity=f"control-{socket.gethostname()}-{os.getpid()}",
        workflows=[SessionWorkflow, AgentWorkflow, SchedulerWorkflow, ReaperWorkflow, ImageWorkflow],
        activities=[
            *registered(SessionActivities, LedgerSessions(engine, seal)),
            *registered(AgentActivities, LedgerAgents(engine, TemporalLives(client))),
            *registered(ImageActivities, LedgerImages(engine)),
            *registered(MaintenanceActivities, Reaping(engine, client)),
            *Scheduling(engine, settings.database_url, client, seal, network_pool=settings.network_pool).activities(),
        ],
        workflow_runner=workflow_runner(),
        max_cached_workflows=2000,
        # The scheduling activity heartbeats every 2 s; the default would hold its beats back.
        max_heartbeat_throttle_interval=timedelta(seconds=2),
        graceful_shutdown_timeout=timedelta(seconds=2),
    )


async def start_permanent_workflows(client: Client, engine: AsyncEngine) -> None:
    """A scheduler for each resource group and the reaper's schedule are there. Idempotent."""
    async with engine.connect() as connection:
        groups = (
            await connection.execute(text("SELECT name, policy FROM resource_groups WHERE removed_at IS NULL"))
        ).all()
    for group in groups:
        await start_scheduler(client, group.name, group.policy)
    try:
        await client.create_schedule(
            "reaper",
            Schedule(
                action=ScheduleActionStartWorkflow(
                    "ReaperWorkflow",
                    id="reaper",
                    task_queue=names.CONTROL_QUEUE,
                    static_summary=Shown("missing workflows"),
                ),
                spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=_REAP_EVERY)]),
                policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=timedelta(seconds=30)),
            ),
        )
    except ScheduleAlreadyRunningError:
        pass


async def run(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT. Waits for Temporal and PostgreSQL as long as they are away."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    engine = connect_database(settings.database_url)
    client = await _connected(settings)
    async with build_worker(settings, client, engine):
        await start_permanent_workflows(client, engine)
        _log.info("working", queue=names.CONTROL_QUEUE)
        await stopped.wait()
    await engine.dispose()


async def _connected(settings: Settings) -> Client:
    delay = 0.1
    while True:
        try:
            return await connect(settings)
        except (RPCError, RuntimeError) as error:
            _log.warning("Temporal is away", address=settings.temporal_address, error=str(error)[:200])
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


def main() -> None:
    try:
        settings = load_settings()
        require(settings, "database_url", "payload_keys")
        log.configure(settings.log_level, settings.log_format, role="worker")
        migrate(settings.database_url)
        asyncio.run(run(settings))
    except MoorageError as error:
        sys.exit(f"moor worker: {error.message}")


if __name__ == "__main__":
    main()
