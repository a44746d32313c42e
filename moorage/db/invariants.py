"""What must always hold, as SQL: `moor check`, the tests and the metrics read the same list."""

from __future__ import annotations

from sqlalchemy import text

from moorage.db.engine import connect
from moorage.domain.session import MOVES

_HOLDING = "('SCHEDULED', 'PREPARING', 'CREATING', 'RUNNING', 'RESTARTING', 'RESIZING', 'TERMINATING')"
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
           AND (s.status NOT IN {_HOLDING} OR a.attempt <> s.attempt)""",
    "a session that must hold its slots does": f"""
        SELECT format('session %s is %s and holds nothing', s.id, s.status) FROM sessions s
         WHERE s.status IN {_HOLDING} AND NOT EXISTS (SELECT 1 FROM allocations a
           WHERE a.session_id = s.id AND a.attempt = s.attempt AND a.released_at IS NULL)""",
    "transitions have no gaps": """
        SELECT format('session %s has %s transitions, the last is number %s', session_id, count(*), max(seq))
          FROM transitions GROUP BY session_id HAVING count(*) <> max(seq) OR min(seq) <> 1""",
    "transitions follow the state machine": f"""
        SELECT format('session %s went from %s to %s (step %s)', t.session_id, t.from_status, t.to_status, t.seq)
          FROM transitions t LEFT JOIN transitions b ON b.session_id = t.session_id AND b.seq = t.seq - 1
         WHERE (t.seq = 1 AND (t.from_status IS NOT NULL OR t.to_status <> 'PENDING'))
            OR (t.seq > 1 AND (t.from_status IS DISTINCT FROM b.to_status
                OR (t.from_status, t.to_status) NOT IN ({_MOVES})))""",
    "the last transition is the status": """
        SELECT format('session %s is %s but its last step leads to %s', s.id, s.status, t.to_status)
          FROM sessions s JOIN LATERAL (SELECT to_status FROM transitions WHERE session_id = s.id
               ORDER BY seq DESC LIMIT 1) t ON true WHERE t.to_status <> s.status""",
    "a session reaches one terminal status": f"""
        SELECT format('session %s reached %s terminal statuses', session_id, count(*)) FROM transitions
         WHERE to_status IN {_TERMINAL} GROUP BY session_id HAVING count(*) > 1""",
}


async def violations(database_url: str) -> list[str]:
    """A sentence for each violation; empty when all is well."""
    engine = connect(database_url, pool_size=1)
    try:
        async with engine.connect() as connection:
            return [
                f"{name}: {sentence}"
                for name, query in INVARIANTS.items()
                for sentence in (await connection.execute(text(query))).scalars()
            ]
    finally:
        await engine.dispose()
