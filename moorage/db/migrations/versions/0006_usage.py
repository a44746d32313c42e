"""What each container used in its life, so that waste can be shown."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = [
    # NULL is unknown. Cores in millicores, memory and traffic in bytes; `devices` as moorage.domain.usage.DeviceUsage.
    """CREATE TABLE kernel_usage (
        kernel_id uuid NOT NULL REFERENCES kernels, attempt integer NOT NULL,
        session_id uuid NOT NULL REFERENCES sessions, seconds float8 NOT NULL CHECK (seconds >= 0),
        cpu_ms bigint, cpu_peak bigint, mem_avg bigint, mem_peak bigint, mem_used_peak bigint,
        io_read bigint, io_write bigint, net_rx bigint, net_tx bigint, pids_peak bigint,
        devices jsonb NOT NULL DEFAULT '[]', PRIMARY KEY (kernel_id, attempt))""",
    "CREATE INDEX usage_of_a_session ON kernel_usage (session_id)",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
