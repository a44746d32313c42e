"""What a running session is asked to become: resized, restarted, extended, watched."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS: list[str] = [
    # `health` and `idle` are moorage.domain's HealthCheck and IdlePolicy; NULL is none.
    """ALTER TABLE sessions
        ADD COLUMN restart_policy text NOT NULL DEFAULT 'never',
        ADD COLUMN max_restarts integer NOT NULL DEFAULT 5,
        ADD COLUMN restarts integer NOT NULL DEFAULT 0,
        ADD COLUMN health jsonb, ADD COLUMN idle jsonb, ADD COLUMN kept_until timestamptz,
        ADD COLUMN last_lines text NOT NULL DEFAULT ''""",
    """ALTER TABLE kernels
        ADD COLUMN health text NOT NULL DEFAULT '', ADD COLUMN health_message text NOT NULL DEFAULT ''""",
    # What idleness is, beside how long it may last: an IdlePolicy without `after_s`; NULL is as ever.
    "ALTER TABLE policies ADD COLUMN idle jsonb",
    "ALTER TABLE limits ADD COLUMN idle jsonb",
    """CREATE OR REPLACE VIEW quotas AS
        SELECT o.scope, o.name, o.policy,
            (COALESCE(l.max_sessions, p.max_sessions)
                + LEAST(COALESCE((SELECT g.amount FROM grants_in_force g WHERE g.scope = o.scope AND g.name = o.name
                                  AND g.slot = 'sessions'), 0),
                        2147483647 - COALESCE(l.max_sessions, p.max_sessions)))::integer AS max_sessions,
            with_grants(o.scope, o.name, COALESCE(p.max_slots, '{}') || COALESCE(l.max_slots, '{}')) AS max_slots,
            COALESCE(l.max_pending, p.max_pending) AS max_pending,
            COALESCE(p.max_pending_slots, '{}') || COALESCE(l.max_pending_slots, '{}') AS max_pending_slots,
            COALESCE(l.max_containers, p.max_containers) AS max_containers,
            COALESCE(l.max_priority, p.max_priority) AS max_priority,
            COALESCE(l.max_job_priority, p.max_job_priority) AS max_job_priority,
            COALESCE(l.max_lifetime_s, p.max_lifetime_s) AS max_lifetime_s,
            COALESCE(l.idle_timeout_s, p.idle_timeout_s) AS idle_timeout_s,
            COALESCE(l.allowed_folder_hosts, p.allowed_folder_hosts) AS allowed_folder_hosts,
            COALESCE(l.weight, 1) AS weight,
            COALESCE(l.idle, p.idle) AS idle
        FROM owners o LEFT JOIN policies p ON p.kind = o.scope AND p.name = o.policy
            LEFT JOIN limits l ON l.scope = o.scope AND l.name = o.name""",
    # A line that was told once stands once, however often it is told.
    "ALTER TABLE transitions ADD COLUMN told_at float8",
    "CREATE UNIQUE INDEX a_line_stands_once ON transitions (session_id, reason, told_at) WHERE told_at IS NOT NULL",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
