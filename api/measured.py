"""Asks nodes for what they measure: each once, all at the same time, and none for longer than the deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from api.deps import Parts
from moorage import log
from moorage.contracts.dataplane import EVERY_KERNEL, issue_token
from moorage.domain.node import AgentStatus
from moorage.domain.stats import NodeStats, node_stats_of

_DEADLINE_S = 2.0
_AT_ONCE = 100
_log = log.get("api")


@dataclass(frozen=True, slots=True)
class Node:
    """Where to ask."""

    agent_id: str
    address: str
    status: str


@dataclass(frozen=True, slots=True)
class Answers:
    """By agent; `unanswered` names, sorted, those that are lost or did not answer in time."""

    by_agent: dict[str, NodeStats]
    unanswered: list[str]


async def ask(parts: Parts, nodes: Iterable[Node], *, session_id: str = "", since_s: float = 0) -> Answers:
    """All that the nodes measure, or of one session's kernels alone."""
    wanted = set(nodes)
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def one(node: Node) -> NodeStats | None:
        async with at_once:
            return await _ask(parts, node, session_id, since_s)

    asked = {node.agent_id: asyncio.create_task(one(node)) for node in wanted if node.status == AgentStatus.ALIVE}
    try:
        if asked:
            await asyncio.wait(asked.values(), timeout=_DEADLINE_S)
    finally:
        for task in asked.values():
            task.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)
    found = {agent_id: task.result() for agent_id, task in asked.items() if not task.cancelled()}
    by_agent = {agent_id: answer for agent_id, answer in found.items() if answer is not None}
    return Answers(by_agent, sorted({node.agent_id for node in wanted} - by_agent.keys()))


async def _ask(parts: Parts, node: Node, session_id: str, since_s: float) -> NodeStats | None:
    """None without an answer that can be read."""
    key = parts.settings.dataplane_key
    token = issue_token(key, agent_id=node.agent_id, kernel_id=session_id or EVERY_KERNEL, action="stats")
    params: dict[str, Any] = {"since_s": since_s} if since_s else {}
    try:
        answer = await parts.nodes.get(
            f"{node.address}/stats/{session_id}" if session_id else f"{node.address}/stats",
            params=params,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_DEADLINE_S,
        )
        return node_stats_of(answer.raise_for_status().json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, AttributeError) as error:
        _log.info("a node did not answer", agent=node.agent_id, error=f"{type(error).__name__}: {error}"[:200])
        return None
