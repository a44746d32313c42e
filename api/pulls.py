"""Asks nodes how far their pulls are: all at the same time, and none for longer than the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx

from api.deps import Parts
from api.measured import Node
from moorage import log
from moorage.contracts.dataplane import EVERY_KERNEL, issue_token
from moorage.domain.images import pinned, tagged
from moorage.domain.node import AgentStatus
from moorage.domain.pulls import PullProgress, progress_of

_DEADLINE_S = 2.0
_AT_ONCE = 50
_log = log.get("api")


async def ask(parts: Parts, nodes: Iterable[Node]) -> dict[str, list[PullProgress]]:
    """Agent → its pulls under way; without those that did not answer."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(node: Node) -> tuple[str, list[PullProgress] | None]:
        async with at_once:
            return node.agent_id, await _ask(parts, node)

    living = {node for node in nodes if node.status == AgentStatus.ALIVE}
    answers = await asyncio.gather(*(one(node) for node in living))
    return {agent_id: found for agent_id, found in answers if found is not None}


def of_image(pulls: Iterable[PullProgress], image: str, digest: str = "") -> PullProgress | None:
    """The pull of this image, by its name or pinned to the digest."""
    wanted = {tagged(image), pinned(image, digest)}
    return next((one for one in pulls if one.image in wanted), None)


def shown(agent_id: str, progress: PullProgress) -> dict[str, Any]:
    return {
        "agent": agent_id,
        "image": progress.image,
        "layers_done": progress.layers_done,
        "layers": progress.layers,
        "cached": progress.cached,
        "bytes_done": progress.bytes_done,
        "bytes_total": progress.bytes_total,
        "amounts": progress.amounts(),
        "words": progress.words(),
    }


async def _ask(parts: Parts, node: Node) -> list[PullProgress] | None:
    key = parts.settings.dataplane_key
    token = issue_token(key, agent_id=node.agent_id, kernel_id=EVERY_KERNEL, action="pulls")
    try:
        answer = await parts.nodes.get(
            f"{node.address}/pulls", headers={"Authorization": f"Bearer {token}"}, timeout=_DEADLINE_S
        )
        return [progress_of(one) for one in answer.raise_for_status().json()["items"]]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.info("a node did not answer", agent=node.agent_id, error=f"{type(error).__name__}: {error}"[:200])
        return None
