"""Which transaction last changed a row that a pass looks at, so that only what changed is read again.

A row's revision is the id of its transaction. A reader remembers the oldest transaction that was still running when it
looked; everything older had ended and was seen, so the rows from that one on are all that may be new. (A sequence would
lose the rows of a transaction that took its number early and committed late.)
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# What a pass reads of each; what it writes about waiting itself (waiting_because, waiting_cause) is not among it.
_SESSION = (
    "status, attempt, name, priority, avoid_agents, skips, job_priority, preemptible, lifetime_s, batch_timeout_s,"
    " not_before, designated"
)
_WATCHED = {
    "sessions": f"INSERT OR UPDATE OF {_SESSION}",
    "agents": "INSERT OR UPDATE OF resource_group, status, schedulable, architecture, images",
    "agent_slots": "INSERT OR UPDATE",
    "devices": "INSERT OR UPDATE",
    "allocations": "INSERT OR UPDATE",
}

STATEMENTS = [
    "CREATE FUNCTION mark_revision() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN NEW.revision := pg_current_xact_id(); RETURN NEW; END $$",
    *(
        statement
        for table, moments in _WATCHED.items()
        for statement in (
            f"ALTER TABLE {table} ADD revision xid8 NOT NULL DEFAULT pg_current_xact_id()",
            f"CREATE INDEX {table}_by_revision ON {table} (revision)",
            f"CREATE TRIGGER mark_revision BEFORE {moments} ON {table} FOR EACH ROW EXECUTE FUNCTION mark_revision()",
        )
    ),
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
