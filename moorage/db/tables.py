"""The tables. The migrations create them; the constraints and triggers there are what the ledger's promise rests on."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

metadata = sa.MetaData()
_uuid = UUID(as_uuid=False)
_time = sa.DateTime(timezone=True)

domains = sa.Table("domains", metadata, sa.Column("name", sa.Text, primary_key=True))

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", _uuid, primary_key=True),
    sa.Column("domain", sa.Text, sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.UniqueConstraint("domain", "name"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", _uuid, primary_key=True),
    sa.Column("email", sa.Text, nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),  # superadmin or user
    sa.Column("domain", sa.Text, sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("project_id", _uuid, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", _time, nullable=False, server_default=sa.func.now()),
)

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("access_key", sa.Text, primary_key=True),
    sa.Column("user_id", _uuid, sa.ForeignKey("users.id"), nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # AES-GCM: a request signature needs the clear secret
    sa.Column("is_active", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_at", _time, nullable=False, server_default=sa.func.now()),
)

resource_groups = sa.Table(
    "resource_groups",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("selector", sa.Text, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("resource_group", sa.Text, sa.ForeignKey("resource_groups.name"), nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("schedulable", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("architecture", sa.Text, nullable=False),
    sa.Column("runtime", sa.Text, nullable=False),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("incarnation", sa.Text, nullable=False),
    sa.Column("first_contact", _time, nullable=False, server_default=sa.func.now()),
    sa.Column("status_changed", _time, nullable=False, server_default=sa.func.now()),
)

agent_slots = sa.Table(
    "agent_slots",
    metadata,
    sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.id"), primary_key=True),
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("capacity", sa.BigInteger, nullable=False),
    sa.Column("offered", sa.BigInteger, nullable=False),  # what the node has now; capacity follows as use allows
    sa.Column("used", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint("used >= 0 AND used <= capacity", name="never_over_capacity"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", _uuid, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("user_id", _uuid, sa.ForeignKey("users.id"), nullable=False),
    sa.Column("project_id", _uuid, sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("domain", sa.Text, nullable=False),
    sa.Column("resource_group", sa.Text, sa.ForeignKey("resource_groups.name"), nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("image", sa.Text, nullable=False),
    sa.Column("command", ARRAY(sa.Text), nullable=False),
    sa.Column("env", sa.LargeBinary, nullable=True),  # AES-GCM over JSON: it may hold secrets
    sa.Column("slots", JSONB, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("on_node_loss", sa.Text, nullable=False),
    sa.Column("pending_timeout_s", sa.Double, nullable=False),
    sa.Column("lifetime_s", sa.Double, nullable=False),
    sa.Column("batch_timeout_s", sa.Double, nullable=False),
    sa.Column("grace_s", sa.Double, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("status_info", sa.Text, nullable=False, server_default=""),
    sa.Column("status_changed", _time, nullable=False, server_default=sa.func.now()),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("exit_code", sa.Integer),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.id")),
    sa.Column("avoid_agents", ARRAY(sa.Text), nullable=False, server_default="{}"),
    sa.Column("waiting_because", sa.Text, nullable=False, server_default=""),
    sa.Column("created_at", _time, nullable=False, server_default=sa.func.now()),
    sa.Column("started_at", _time),
    sa.Column("terminated_at", _time),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("idempotency_hash", sa.Text),
    sa.UniqueConstraint("user_id", "idempotency_key"),
)

kernels = sa.Table(
    "kernels",
    metadata,
    sa.Column("id", _uuid, primary_key=True),
    sa.Column("session_id", _uuid, sa.ForeignKey("sessions.id"), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("idx", sa.Integer, nullable=False),
    sa.Column("agent_id", sa.Text, sa.ForeignKey("agents.id")),
    sa.Column("container_id", sa.Text),
)

allocations = sa.Table(
    "allocations",
    metadata,
    sa.Column("kernel_id", _uuid, sa.ForeignKey("kernels.id"), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("session_id", _uuid, sa.ForeignKey("sessions.id"), nullable=False),
    sa.Column("agent_id", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("allocated_at", _time, nullable=False, server_default=sa.func.now()),
    sa.Column("fenced_at", _time),  # its node is lost: held until the container is proven gone
    sa.Column("released_at", _time),
    sa.ForeignKeyConstraint(["agent_id", "slot"], ["agent_slots.agent_id", "agent_slots.slot"]),
    sa.CheckConstraint("amount > 0", name="a_positive_amount"),
)

transitions = sa.Table(
    "transitions",
    metadata,
    sa.Column("session_id", _uuid, sa.ForeignKey("sessions.id"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("from_status", sa.Text),
    sa.Column("to_status", sa.Text, nullable=False),
    sa.Column("at", _time, nullable=False, server_default=sa.text("clock_timestamp()")),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
)
