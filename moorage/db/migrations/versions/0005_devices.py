"""What is known of a device: its memory, and why and since when its health is what it is."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """ALTER TABLE devices
            ADD memory bigint NOT NULL DEFAULT 0,
            ADD reason text NOT NULL DEFAULT '',
            ADD health_changed timestamptz NOT NULL DEFAULT now()"""
    )
