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
    # A line that was told once stands once, however often it is told.
    "ALTER TABLE transitions ADD COLUMN told_at float8",
    "CREATE UNIQUE INDEX a_line_stands_once ON transitions (session_id, reason, told_at) WHERE told_at IS NOT NULL",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
