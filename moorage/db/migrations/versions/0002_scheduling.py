"""What the scheduler decides over: groups with options, limits, gangs, dependencies, devices; and what it decided."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = [
    # Empty lists allow everybody; else any of the three opens the group.
    """ALTER TABLE resource_groups
        ADD description text NOT NULL DEFAULT '',
        ADD options jsonb NOT NULL DEFAULT '{}',
        ADD allowed_domains text[] NOT NULL DEFAULT '{}',
        ADD allowed_projects text[] NOT NULL DEFAULT '{}',
        ADD allowed_keypairs text[] NOT NULL DEFAULT '{}',
        ADD cursor text NOT NULL DEFAULT '',
        ADD removed_at timestamptz""",
    """ALTER TABLE sessions
        ADD access_key text NOT NULL DEFAULT '',
        ADD cluster_mode text NOT NULL DEFAULT 'single-node' CHECK (cluster_mode IN ('single-node', 'multi-node')),
        ADD cluster_size integer NOT NULL DEFAULT 1 CHECK (cluster_size >= 1),
        ADD not_before timestamptz,
        ADD on_dependency_failure text NOT NULL DEFAULT 'cancel' CHECK (on_dependency_failure IN ('cancel', 'run')),
        ADD architecture text NOT NULL DEFAULT '',
        ADD designated text[] NOT NULL DEFAULT '{}',
        ADD preemptible boolean NOT NULL DEFAULT true,
        ADD job_priority integer NOT NULL DEFAULT 0,
        ADD skips integer NOT NULL DEFAULT 0,
        ADD waiting_cause text NOT NULL DEFAULT ''""",
    """CREATE TABLE session_dependencies (
        session_id uuid NOT NULL REFERENCES sessions, depends_on uuid NOT NULL REFERENCES sessions,
        PRIMARY KEY (session_id, depends_on), CHECK (session_id <> depends_on))""",
    "CREATE INDEX dependents ON session_dependencies (depends_on)",
    # Names: an access key, an e-mail address, domain/project, a domain. NULL and missing slots are no limit.
    """CREATE TABLE limits (
        scope text NOT NULL CHECK (scope IN ('keypair', 'user', 'project', 'domain')), name text NOT NULL,
        max_sessions integer CHECK (max_sessions >= 0), max_slots jsonb NOT NULL DEFAULT '{}',
        max_pending integer CHECK (max_pending >= 0), max_pending_slots jsonb NOT NULL DEFAULT '{}',
        weight float8 NOT NULL DEFAULT 1 CHECK (weight > 0), PRIMARY KEY (scope, name))""",
    "ALTER TABLE agents ADD images text[] NOT NULL DEFAULT '{}'",
    # `total` is 1 for whole devices and slices, 100 for shares of one.
    """CREATE TABLE devices (
        agent_id text NOT NULL REFERENCES agents, device_id text NOT NULL, slot text NOT NULL,
        total integer NOT NULL CHECK (total > 0), used integer NOT NULL DEFAULT 0,
        numa integer, model text NOT NULL DEFAULT '', healthy boolean NOT NULL DEFAULT true,
        PRIMARY KEY (agent_id, device_id),
        CONSTRAINT a_device_is_given_once CHECK (used >= 0 AND used <= total))""",
    """CREATE TABLE device_allocations (
        kernel_id uuid NOT NULL REFERENCES kernels, attempt integer NOT NULL,
        agent_id text NOT NULL, device_id text NOT NULL, slot text NOT NULL,
        amount integer NOT NULL CHECK (amount > 0), released_at timestamptz,
        PRIMARY KEY (kernel_id, attempt, device_id),
        FOREIGN KEY (agent_id, device_id) REFERENCES devices)""",
    "CREATE INDEX held_devices ON device_allocations (agent_id) WHERE released_at IS NULL",
    # As for slots: `used` is moved by the allocations alone. An unhealthy device takes nothing new.
    """CREATE FUNCTION carry_device() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE before integer := 0; now_held integer := 0;
    BEGIN
        IF TG_OP = 'UPDATE' THEN
            IF OLD.released_at IS NOT NULL THEN
                RAISE EXCEPTION 'device % of kernel % was released already', OLD.device_id, OLD.kernel_id;
            END IF;
            before := OLD.amount;
        END IF;
        IF NEW.released_at IS NULL THEN now_held := NEW.amount; END IF;
        UPDATE devices SET used = used + now_held - before
         WHERE agent_id = NEW.agent_id AND device_id = NEW.device_id
           AND (now_held <= before OR (healthy AND used + now_held - before <= total));
        IF NOT FOUND THEN
            RAISE EXCEPTION 'device % of agent % has no room for %', NEW.device_id, NEW.agent_id, now_held - before
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER carry_device AFTER INSERT OR UPDATE ON device_allocations
        FOR EACH ROW EXECUTE FUNCTION carry_device()""",
    # A kernel's devices go with its slots, in the same statement.
    """CREATE FUNCTION release_devices() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.released_at IS NOT NULL AND OLD.released_at IS NULL THEN
            UPDATE device_allocations SET released_at = NEW.released_at
             WHERE kernel_id = NEW.kernel_id AND attempt = NEW.attempt AND slot = NEW.slot AND released_at IS NULL;
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER release_devices AFTER UPDATE ON allocations
        FOR EACH ROW EXECUTE FUNCTION release_devices()""",
    "CREATE INDEX past_allocations ON allocations (released_at) WHERE released_at IS NOT NULL",
    # Room that preemption made for a session: nobody else gets it until then.
    """CREATE TABLE holds (
        session_id uuid PRIMARY KEY REFERENCES sessions, resource_group text NOT NULL REFERENCES resource_groups,
        kernels jsonb NOT NULL, victims uuid[] NOT NULL, mode text NOT NULL, until timestamptz NOT NULL)""",
    # What a pass saw and decided, packed (zlib over JSON), so that it can be decided again.
    """CREATE TABLE passes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, resource_group text NOT NULL, epoch bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(), duration_ms float8 NOT NULL,
        waiting integer NOT NULL, placed integer NOT NULL, policy jsonb NOT NULL, causes jsonb NOT NULL,
        snapshot bytea NOT NULL, decisions bytea NOT NULL)""",
    "CREATE INDEX passes_of_a_group ON passes (resource_group, at)",
    # When a waiting session was expected to start, as said first; what happened is in its transitions.
    """CREATE TABLE estimates (
        session_id uuid PRIMARY KEY REFERENCES sessions, resource_group text NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(), p50 timestamptz NOT NULL, p90 timestamptz NOT NULL,
        started_at timestamptz)""",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
