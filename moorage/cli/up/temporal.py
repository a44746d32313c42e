"""The embedded Temporal: the development server of the `temporal` executable, tuned, on a file."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from moorage.cli.up.part import Part
from moorage.cli.up.state import Place, Ports
from moorage.contracts.names import SEARCH_ATTRIBUTES
from moorage.domain.errors import Unavailable

_READY_S = 40.0
# The defaults let each task wait up to 50 ms for the next read of its queue; measured in docs/decisions.md.
_DYNAMIC = {
    "history.transferProcessorMaxPollRPS": 2000,
    "history.timerProcessorMaxPollRPS": 500,
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
}
_PRAGMAS = {"journal_mode": "wal", "synchronous": "normal"}


def temporal_part(place: Place, ports: Ports) -> Part:
    options = [f"--dynamic-config-value={name}={value}" for name, value in _DYNAMIC.items()]
    options += [f"--sqlite-pragma={name}={value}" for name, value in _PRAGMAS.items()]
    options += [f"--search-attribute={key.name}=Keyword" for key in SEARCH_ATTRIBUTES]
    address = [f"--port={ports.temporal}", f"--ui-port={ports.web_ui}", "--ip=127.0.0.1"]
    return Part(
        "temporal",
        [
            *[str(Path(sys.executable).with_name("temporal")), "server", "start-dev", *address, *options],
            f"--db-filename={place.folder / 'temporal.db'}",
            "--log-level=warn",
            "--ui-disable-news-fetch",
        ],
        log=place.logs / "temporal.log",
        cwd=place.folder,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(place.folder)},
    )


async def until_ready(part: Part, address: str) -> None:
    """It answers and has its namespace."""
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            client = await Client.connect(address)
            await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace="default"))
            return
        except (RPCError, RuntimeError) as error:
            if part.dead or time.monotonic() > deadline:
                raise Unavailable(f"Temporal did not start: {str(error)[:200]}\n{part.last_words()}") from None
            await asyncio.sleep(0.05)
