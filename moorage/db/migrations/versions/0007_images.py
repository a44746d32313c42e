"""Which images may run, where from, and on which nodes they are."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = [
    # What ran. Without a digest it came from no registry, and its id means something on that node alone.
    "ALTER TABLE kernels ADD COLUMN image_id text NOT NULL DEFAULT '',"
    " ADD COLUMN image_digest text NOT NULL DEFAULT ''",
    """CREATE TABLE registries (
        host text PRIMARY KEY, username text NOT NULL, password bytea NOT NULL, created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(), modified_at timestamptz NOT NULL DEFAULT now())""",
    # A domain may run what any of its patterns or of those without a domain allows; without any, everything.
    """CREATE TABLE allowed_images (
        domain text REFERENCES domains (name) ON UPDATE CASCADE ON DELETE CASCADE, pattern text NOT NULL,
        created_by text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE NULLS NOT DISTINCT (domain, pattern))""",
    """CREATE TABLE agent_images (
        agent_id text NOT NULL REFERENCES agents ON DELETE CASCADE, name text NOT NULL, image_id text NOT NULL,
        digest text NOT NULL, size bigint NOT NULL, last_used timestamptz, ours boolean NOT NULL,
        PRIMARY KEY (agent_id, name))""",
    "CREATE INDEX nodes_of_an_image ON agent_images (name)",
    """CREATE TABLE image_orders (
        id uuid PRIMARY KEY, kind text NOT NULL CHECK (kind IN ('pull', 'remove')), image text NOT NULL,
        target text NOT NULL, asked_by text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz)""",
    # Asked twice while it is under way, it is the same order.
    "CREATE UNIQUE INDEX one_order_at_a_time ON image_orders (kind, image, target) WHERE ended_at IS NULL",
    """CREATE TABLE image_order_nodes (
        order_id uuid NOT NULL REFERENCES image_orders ON DELETE CASCADE, agent_id text NOT NULL REFERENCES agents,
        state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'failed')),
        message text NOT NULL DEFAULT '', image_id text NOT NULL DEFAULT '', digest text NOT NULL DEFAULT '',
        ended_at timestamptz, PRIMARY KEY (order_id, agent_id))""",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
