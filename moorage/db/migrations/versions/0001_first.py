"""The first tables, with the constraints and triggers that keep the ledger true whatever the programs above do."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = [
    "CREATE TABLE domains (name text PRIMARY KEY)",
    """CREATE TABLE projects (
        id uuid PRIMARY KEY, domain text NOT NULL REFERENCES domains, name text NOT NULL, UNIQUE (domain, name))""",
    """CREATE TABLE users (
        id uuid PRIMARY KEY, email text NOT NULL UNIQUE, password_hash text NOT NULL,
        role text NOT NULL CHECK (role IN ('superadmin', 'user')),
        domain text NOT NULL REFERENCES domains, project_id uuid NOT NULL REFERENCES projects,
        is_active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT now())""",
    """CREATE TABLE keypairs (
        access_key text PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, secret bytea NOT NULL,
        is_active boolean NOT NULL DEFAULT true, created_at timestamptz NOT NULL DEFAULT now())""",
    """CREATE TABLE resource_groups (
        name text PRIMARY KEY, policy text NOT NULL, selector text NOT NULL, epoch bigint NOT NULL DEFAULT 0)""",
    """CREATE TABLE agents (
        id text PRIMARY KEY, resource_group text NOT NULL REFERENCES resource_groups,
        status text NOT NULL CHECK (status IN ('ALIVE', 'LOST', 'TERMINATED')),
        schedulable boolean NOT NULL DEFAULT true,
        address text NOT NULL, architecture text NOT NULL, runtime text NOT NULL, hostname text NOT NULL,
        version text NOT NULL, incarnation text NOT NULL,
        first_contact timestamptz NOT NULL DEFAULT now(), status_changed timestamptz NOT NULL DEFAULT now())""",
    """CREATE TABLE agent_slots (
        agent_id text NOT NULL REFERENCES agents, slot text NOT NULL,
        capacity bigint NOT NULL, offered bigint NOT NULL, used bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (agent_id, slot),
        CONSTRAINT never_over_capacity CHECK (used >= 0 AND used <= capacity))""",
    """CREATE TABLE sessions (
        id uuid PRIMARY KEY, name text NOT NULL,
        user_id uuid NOT NULL REFERENCES users, project_id uuid NOT NULL REFERENCES projects, domain text NOT NULL,
        resource_group text NOT NULL REFERENCES resource_groups,
        type text NOT NULL, image text NOT NULL, command text[] NOT NULL, env bytea, slots jsonb NOT NULL,
        priority integer NOT NULL CHECK (priority BETWEEN 0 AND 100), on_node_loss text NOT NULL,
        pending_timeout_s float8 NOT NULL, lifetime_s float8 NOT NULL, batch_timeout_s float8 NOT NULL,
        grace_s float8 NOT NULL,
        status text NOT NULL, status_info text NOT NULL DEFAULT '', status_changed timestamptz NOT NULL DEFAULT now(),
        reason text NOT NULL DEFAULT '', result text NOT NULL, exit_code integer, attempt integer NOT NULL,
        agent_id text REFERENCES agents, avoid_agents text[] NOT NULL DEFAULT '{}',
        waiting_because text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now(), started_at timestamptz, terminated_at timestamptz,
        idempotency_key text, idempotency_hash text, UNIQUE (user_id, idempotency_key))""",
    """CREATE UNIQUE INDEX one_live_session_of_a_name ON sessions (user_id, name)
        WHERE status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')""",
    """CREATE INDEX waiting_sessions ON sessions (resource_group, priority DESC, created_at)
        WHERE status = 'PENDING'""",
    "CREATE INDEX live_sessions ON sessions (status) WHERE status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')",
    "CREATE INDEX sessions_of_a_user ON sessions (user_id, created_at DESC)",
    "CREATE INDEX sessions_by_age ON sessions (created_at DESC)",
    """CREATE TABLE kernels (
        id uuid PRIMARY KEY, session_id uuid NOT NULL REFERENCES sessions, role text NOT NULL, idx integer NOT NULL,
        agent_id text REFERENCES agents, container_id text, UNIQUE (session_id, role, idx))""",
    """CREATE TABLE allocations (
        kernel_id uuid NOT NULL REFERENCES kernels, attempt integer NOT NULL, slot text NOT NULL,
        session_id uuid NOT NULL REFERENCES sessions, agent_id text NOT NULL,
        amount bigint NOT NULL CONSTRAINT a_positive_amount CHECK (amount > 0),
        allocated_at timestamptz NOT NULL DEFAULT now(), fenced_at timestamptz, released_at timestamptz,
        PRIMARY KEY (kernel_id, attempt, slot),
        FOREIGN KEY (agent_id, slot) REFERENCES agent_slots)""",
    "CREATE INDEX held_allocations ON allocations (agent_id) WHERE released_at IS NULL",
    "CREATE INDEX allocations_of_a_session ON allocations (session_id)",
    """CREATE TABLE transitions (
        session_id uuid NOT NULL REFERENCES sessions, seq integer NOT NULL,
        from_status text, to_status text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp(),
        actor text NOT NULL, reason text NOT NULL, message text NOT NULL, attempt integer NOT NULL,
        PRIMARY KEY (session_id, seq))""",
    # The moves of moorage.domain.session.MOVES, refused here too: a terminal row never changes.
    """CREATE FUNCTION guard_session_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.status IN ('TERMINATED', 'CANCELLED', 'ERROR') THEN
            RAISE EXCEPTION 'session % is % and never changes again', OLD.id, OLD.status;
        END IF;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER guard_session_move BEFORE UPDATE ON sessions
        FOR EACH ROW EXECUTE FUNCTION guard_session_move()""",
    # `used` is moved by the allocations alone, in the same transaction: it can't drift from them.
    """CREATE FUNCTION carry_allocation() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE before bigint := 0; now_held bigint := 0;
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            IF OLD.released_at IS NOT NULL THEN
                RAISE EXCEPTION 'allocation of kernel % attempt % was released already', OLD.kernel_id, OLD.attempt;
            END IF;
            before := OLD.amount;
        END IF;
        IF TG_OP <> 'DELETE' AND NEW.released_at IS NULL THEN now_held := NEW.amount; END IF;
        UPDATE agent_slots SET used = used + now_held - before,
               capacity = GREATEST(offered, used + now_held - before)
         WHERE agent_id = COALESCE(NEW.agent_id, OLD.agent_id) AND slot = COALESCE(NEW.slot, OLD.slot)
           AND (now_held <= before OR used + now_held - before <= offered);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'slot % of agent % has no room for %', NEW.slot, NEW.agent_id, now_held - before
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER carry_allocation AFTER INSERT OR UPDATE OR DELETE ON allocations
        FOR EACH ROW EXECUTE FUNCTION carry_allocation()""",
    "CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the past is not rewritten'; END $$",
    """CREATE TRIGGER transitions_stay BEFORE UPDATE OR DELETE ON transitions
        FOR EACH ROW EXECUTE FUNCTION refuse_change()""",
    "INSERT INTO domains VALUES ('default')",
    "INSERT INTO projects VALUES ('00000000-0000-4000-8000-000000000001', 'default', 'default')",
    "INSERT INTO resource_groups (name, policy, selector) VALUES ('default', 'priority', 'concentrated')",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
