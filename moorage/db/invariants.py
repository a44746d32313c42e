"""What must always hold, as SQL: `moor check`, the tests and the metrics read the same list.

The database alone is compared with itself; with workflows and containers, when the caller has looked what there is.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from sqlalchemy import text

from moorage.db.engine import connect
from moorage.domain.node import ContainerSeen
from moorage.domain.session import MOVES

_HOLDING = "('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING', 'RESTARTING', 'RESIZING', 'TERMINATING')"
# They may hold more than they ask: what a resize needs beside what there is.
_BESIDE = "('RESTARTING', 'RESIZING', 'TERMINATING')"
_TERMINAL = "('TERMINATED', 'CANCELLED', 'ERROR')"
_MOVES = ", ".join(f"('{before}', '{after}')" for before, afters in MOVES.items() for after in sorted(afters))

# Each query returns one text column: a sentence for each violation.
INVARIANTS = {
    "no slot of a node is given beyond its capacity": """
        SELECT format('agent %s: %s allocated %s, used says %s, capacity is %s', c.agent_id, c.slot,
                      coalesce(sum(a.amount), 0), c.used, c.capacity)
          FROM agent_slots c LEFT JOIN allocations a
            ON a.agent_id = c.agent_id AND a.slot = c.slot AND a.released_at IS NULL
         GROUP BY c.agent_id, c.slot, c.used, c.capacity
        HAVING coalesce(sum(a.amount), 0) <> c.used OR c.used > c.capacity""",
    "what is held belongs to a session that may hold it": f"""
        SELECT format('session %s is %s and holds %s of %s on %s', s.id, s.status, a.amount, a.slot, a.agent_id)
          FROM allocations a JOIN sessions s ON s.id = a.session_id
         WHERE a.released_at IS NULL AND a.fenced_at IS NULL
           AND (s.status NOT IN {_HOLDING} OR a.attempt <> s.attempt
                AND NOT (a.attempt < 0 AND s.status IN {_BESIDE}))""",
    "a session that must hold its slots does": f"""
        SELECT format('session %s is %s and holds nothing', s.id, s.status) FROM sessions s
         WHERE s.status IN {_HOLDING} AND NOT EXISTS (SELECT 1 FROM allocations a
           WHERE a.session_id = s.id AND a.attempt = s.attempt AND a.released_at IS NULL)""",
    "a session holds what it asks": f"""
        SELECT format('session %s is %s and holds %s of %s, it asks %s', s.id, s.status, a.amount, a.slot,
                      s.slots ->> a.slot)
          FROM allocations a JOIN sessions s ON s.id = a.session_id AND a.attempt = s.attempt
         WHERE a.released_at IS NULL AND a.fenced_at IS NULL AND s.status IN {_HOLDING} AND s.status NOT IN {_BESIDE}
           AND a.amount IS DISTINCT FROM (s.slots ->> a.slot)::bigint""",
    "the devices of a slot make up what is held of it": """
        SELECT format('kernel %s holds %s of %s, and devices that make up %s', a.kernel_id, a.amount, a.slot,
                      sum(d.amount))
          FROM allocations a JOIN device_allocations d USING (kernel_id, attempt, slot)
         WHERE a.released_at IS NULL AND d.released_at IS NULL
         GROUP BY a.kernel_id, a.attempt, a.slot, a.amount HAVING sum(d.amount) <> a.amount""",
    "a gang's network is held as long as a node may have it": """
        SELECT format('session %s, attempt %s, keeps the network %s and holds nothing', n.session_id, n.attempt,
                      n.subnet)
          FROM session_networks n WHERE NOT EXISTS (SELECT 1 FROM allocations a
           WHERE a.session_id = n.session_id AND a.attempt = n.attempt AND a.released_at IS NULL)""",
    # One of before there were networks has no key either.
    "a gang that holds its slots has a network": f"""
        SELECT format('session %s of %s kernels is %s and has no network', s.id, s.cluster_size, s.status)
          FROM sessions s WHERE s.cluster_size > 1 AND s.ssh_key IS NOT NULL AND s.status IN {_HOLDING}
           AND NOT EXISTS (SELECT 1 FROM session_networks n WHERE n.session_id = s.id AND n.attempt = s.attempt)""",
    "transitions have no gaps": """
        SELECT format('session %s has %s transitions, the last is number %s', session_id, count(*), max(seq))
          FROM transitions GROUP BY session_id HAVING count(*) <> max(seq) OR min(seq) <> 1""",
    "transitions follow the state machine": f"""
        SELECT format('session %s went from %s to %s (step %s)', t.session_id, t.from_status, t.to_status, t.seq)
          FROM transitions t LEFT JOIN transitions b ON b.session_id = t.session_id AND b.seq = t.seq - 1
         WHERE (t.seq = 1 AND (t.from_status IS NOT NULL OR t.to_status <> 'PENDING'))
            OR (t.seq > 1 AND (t.from_status IS DISTINCT FROM b.to_status
                OR (t.from_status, t.to_status) NOT IN ({_MOVES})
                AND (t.from_status <> t.to_status
                     OR t.reason NOT IN ('device-health', 'health', 'idle-warning', 'extended'))))""",
    "the last transition is the status": """
        SELECT format('session %s is %s but its last step leads to %s', s.id, s.status, t.to_status)
          FROM sessions s JOIN LATERAL (SELECT to_status FROM transitions WHERE session_id = s.id
               ORDER BY seq DESC LIMIT 1) t ON true WHERE t.to_status <> s.status""",
    "a session reaches one terminal status": f"""
        SELECT format('session %s reached %s terminal statuses', session_id, count(*)) FROM transitions
         WHERE to_status IN {_TERMINAL} GROUP BY session_id HAVING count(*) > 1""",
}


# The reaper looks every 20 s for rows of 10 s and more that have no workflow.
_WORKFLOW_WITHIN_S = 45
# Finishing is the workflow's last step but one; its worker may die in between.
_CLOSED_WITHIN_S = 30
# The agent compares its containers every 10 s, and what is told to go is killed at once.
_KILLED_WITHIN_S = 20

_ROWS_WITHOUT_WORKFLOW = f"""
    SELECT format('session %s is %s and no workflow of it runs', id, status) FROM sessions
     WHERE status NOT IN {_TERMINAL} AND created_at < now() - make_interval(secs => {_WORKFLOW_WITHIN_S})
       AND NOT CAST(:running AS jsonb) ? id::text"""

_WORKFLOWS_WITHOUT_ROW = f"""
    SELECT format('a workflow of session %s runs, which %s', r.id,
                  coalesce('is ' || s.status || ' since ' || s.terminated_at, 'is not in the database'))
      FROM jsonb_array_elements_text(CAST(:running AS jsonb)) AS r(id) LEFT JOIN sessions s ON s.id::text = r.id
     WHERE s.id IS NULL OR (s.status IN {_TERMINAL}
           AND s.terminated_at < now() - make_interval(secs => {_CLOSED_WITHIN_S}))"""

# What is fenced on a lost node may still be there; the node proves it gone when it is back.
_CONTAINERS_WITHOUT_KERNEL = f"""
    SELECT format('container %s of session %s, attempt %s, is there; %s', left(c.container_id, 12), c.session_id,
                  c.attempt, coalesce('the session is ' || s.status || ', attempt ' || s.attempt
                  || coalesce(' on ' || k.agent_id, ''), 'there is no such kernel'))
      FROM jsonb_to_recordset(CAST(:containers AS jsonb))
        AS c(container_id text, session_id text, kernel_id text, attempt int, agent_id text)
      LEFT JOIN kernels k ON k.id::text = c.kernel_id AND k.session_id::text = c.session_id
      LEFT JOIN sessions s ON s.id = k.session_id
     WHERE (s.id IS NULL OR s.status_changed < now() - make_interval(secs => {_KILLED_WITHIN_S}))
       AND (s.status IN {_HOLDING} AND s.attempt = c.attempt AND k.agent_id = c.agent_id) IS NOT TRUE
       AND NOT EXISTS (SELECT 1 FROM allocations a WHERE a.kernel_id = k.id AND a.attempt = c.attempt
           AND a.agent_id = c.agent_id AND a.fenced_at IS NOT NULL AND a.released_at IS NULL)"""


async def violations(database_url: str) -> list[str]:
    """A sentence for each violation in the database; empty when all is well."""
    async with _reading(database_url) as sentences:
        return [f"{name}: {sentence}" for name, query in INVARIANTS.items() for sentence in await sentences(query)]


async def against_workflows(database_url: str, running: Iterable[str]) -> list[str]:
    """A sentence for each live row without a workflow and each workflow whose row is over or missing.

    `running` are the session ids whose workflow ran a moment ago: listed before this is asked, or a session that ended
    meanwhile is taken for one without a workflow.
    """
    values = {"running": json.dumps(sorted(running))}
    async with _reading(database_url) as sentences:
        return [
            f"a session has a workflow as long as it lives: {sentence}"
            for query in (_ROWS_WITHOUT_WORKFLOW, _WORKFLOWS_WITHOUT_ROW)
            for sentence in await sentences(query, values)
        ]


async def against_containers(database_url: str, found: Mapping[str, Iterable[ContainerSeen]]) -> list[str]:
    """A sentence for each container that should be gone. `found`: agent id → its containers older than 20 s."""
    rows = [
        {
            "container_id": one.container_id,
            "session_id": one.session_id,
            "kernel_id": one.kernel_id,
            "attempt": one.attempt,
            "agent_id": agent_id,
        }
        for agent_id, containers in found.items()
        for one in containers
    ]
    async with _reading(database_url) as sentences:
        return [
            f"a container belongs to a session that may have one: {sentence}"
            for sentence in await sentences(_CONTAINERS_WITHOUT_KERNEL, {"containers": json.dumps(rows)})
        ]


async def docker_agents(database_url: str, hostname: str) -> list[str]:
    """The agents of the docker runtime on that host."""
    query = "SELECT id FROM agents WHERE runtime = 'docker' AND hostname = :hostname ORDER BY id"
    async with _reading(database_url) as sentences:
        return await sentences(query, {"hostname": hostname})


class _Ask(Protocol):
    async def __call__(self, query: str, values: Mapping[str, str] | None = None) -> list[str]: ...


@asynccontextmanager
async def _reading(database_url: str) -> AsyncIterator[_Ask]:
    """A function that answers with the one text column that a query returns."""
    engine = connect(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:

            async def ask(query: str, values: Mapping[str, str] | None = None) -> list[str]:
                return [str(one) for one in (await connection.execute(text(query), values or {})).scalars()]

            yield ask
    finally:
        await engine.dispose()
