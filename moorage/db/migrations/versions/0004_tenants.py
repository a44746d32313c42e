"""Who may do what: the tree of tenants, keys, log-ins, roles, policies, grants, secrets and the audit."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What a policy gives to many and a row of `limits` to one owner. NULL and missing slots are no limit.
_CEILINGS = """
    max_containers integer CHECK (max_containers >= 1), max_priority integer CHECK (max_priority BETWEEN 0 AND 100),
    max_job_priority integer, max_lifetime_s float8 CHECK (max_lifetime_s > 0),
    idle_timeout_s float8 CHECK (idle_timeout_s > 0), allowed_folder_hosts text[]"""
_LIVE = "status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"
# A change of any of these is told to every API process, which forgets whom it knows.
_IDENTITY = {
    "domains": "UPDATE",
    "projects": "UPDATE OR DELETE",
    "users": "UPDATE OF email, status, role, domain, project_id, policy, password_hash, need_password_change,"
    " allowed_client_ip OR DELETE",
    "memberships": "INSERT OR UPDATE OR DELETE",
    "keypairs": "UPDATE OF secret, is_active, rate_limit, policy, user_id OR DELETE",
    "roles": "UPDATE OR DELETE",
    "role_assignments": "INSERT OR UPDATE OR DELETE",
    "logins": "UPDATE OF revoked_at OR DELETE",
    "tokens": "UPDATE OF revoked_at, expires_at OR DELETE",
}

STATEMENTS = [
    """ALTER TABLE domains
        ADD description text NOT NULL DEFAULT '',
        ADD is_active boolean NOT NULL DEFAULT true,
        ADD allowed_registries text[] NOT NULL DEFAULT '{}',
        ADD created_at timestamptz NOT NULL DEFAULT now(),
        ADD deleted_at timestamptz""",
    """ALTER TABLE projects
        ADD description text NOT NULL DEFAULT '',
        ADD is_active boolean NOT NULL DEFAULT true,
        ADD policy text NOT NULL DEFAULT 'default',
        ADD created_at timestamptz NOT NULL DEFAULT now(),
        ADD deleted_at timestamptz""",
    # A deleted domain that something of the past refers to gets another name, so that its own is free again.
    *(
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_domain_fkey, ADD CONSTRAINT {table}_domain_fkey"
        " FOREIGN KEY (domain) REFERENCES domains ON UPDATE CASCADE"
        for table in ("projects", "users")
    ),
    # Addresses are compared in lower case from here on.
    "UPDATE limits SET name = lower(name) WHERE scope = 'user' AND name <> lower(name)"
    " AND NOT EXISTS (SELECT 1 FROM limits o WHERE o.scope = 'user' AND o.name = lower(limits.name))",
    "UPDATE users SET email = lower(email) WHERE email <> lower(email)"
    " AND NOT EXISTS (SELECT 1 FROM users o WHERE o.email = lower(users.email))",
    "ALTER TABLE users DROP CONSTRAINT users_role_check",
    """ALTER TABLE users
        ADD CONSTRAINT users_role_check CHECK (role IN ('superadmin', 'admin', 'monitor', 'user')),
        ADD status text NOT NULL DEFAULT 'active'
            CHECK (status IN ('active', 'inactive', 'deleted', 'before-verification')),
        ADD name text NOT NULL DEFAULT '',
        ADD full_name text NOT NULL DEFAULT '',
        ADD description text NOT NULL DEFAULT '',
        ADD policy text NOT NULL DEFAULT 'default',
        ADD main_access_key text,
        ADD allowed_client_ip text[] NOT NULL DEFAULT '{}',
        ADD need_password_change boolean NOT NULL DEFAULT false,
        ADD password_changed_at timestamptz NOT NULL DEFAULT now(),
        ADD failed_logins integer NOT NULL DEFAULT 0,
        ADD locked_until timestamptz,
        ADD totp_secret bytea,
        ADD totp_enabled_at timestamptz,
        ADD totp_last_step bigint NOT NULL DEFAULT 0,
        ADD oidc_issuer text,
        ADD oidc_subject text,
        ADD CONSTRAINT one_user_of_a_subject UNIQUE (oidc_issuer, oidc_subject)""",
    "UPDATE users SET status = 'inactive' WHERE NOT is_active",
    "ALTER TABLE users DROP COLUMN is_active",
    "ALTER TABLE users ALTER COLUMN password_hash DROP NOT NULL",
    """CREATE TABLE memberships (
        user_id uuid NOT NULL REFERENCES users, project_id uuid NOT NULL REFERENCES projects,
        joined_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (user_id, project_id))""",
    "CREATE INDEX members_of_a_project ON memberships (project_id)",
    "INSERT INTO memberships (user_id, project_id) SELECT id, project_id FROM users",
    "CREATE INDEX users_of_a_domain ON users (domain, email)",
    # `rate_limit` is requests in 900 s; NULL is none.
    """ALTER TABLE keypairs
        ADD policy text NOT NULL DEFAULT 'default',
        ADD rate_limit integer DEFAULT 10000 CHECK (rate_limit >= 1),
        ADD last_used_at timestamptz""",
    "CREATE INDEX keypairs_of_a_user ON keypairs (user_id)",
    # Policies, exceptions from them, and what is given for a time.
    f"""CREATE TABLE policies (
        kind text NOT NULL CHECK (kind IN ('keypair', 'user', 'project')), name text NOT NULL,
        description text NOT NULL DEFAULT '',
        max_sessions integer CHECK (max_sessions >= 0), max_slots jsonb NOT NULL DEFAULT '{{}}',
        max_pending integer CHECK (max_pending >= 0), max_pending_slots jsonb NOT NULL DEFAULT '{{}}',
        {_CEILINGS}, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (kind, name))""",
    "INSERT INTO policies (kind, name, description, max_priority, max_job_priority) VALUES"
    " ('keypair', 'default', 'of every new key', 10, 0), ('keypair', 'unlimited', 'no ceiling', NULL, NULL),"
    " ('user', 'default', 'of every new user', NULL, NULL), ('project', 'default', 'of every new project', NULL, NULL)",
    "UPDATE keypairs SET policy = 'unlimited', rate_limit = NULL"
    " WHERE user_id IN (SELECT id FROM users WHERE role = 'superadmin')",
    "ALTER TABLE limits " + ",".join(f"ADD {column.strip()}" for column in _CEILINGS.replace(",\n", ", ").split(", ")),
    # `slot` may also be `sessions`.
    """CREATE TABLE grants (
        id uuid PRIMARY KEY, scope text NOT NULL CHECK (scope IN ('keypair', 'user', 'project', 'domain')),
        name text NOT NULL, slot text NOT NULL, amount bigint NOT NULL CHECK (amount > 0),
        starts_at timestamptz NOT NULL, ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
        reason text NOT NULL DEFAULT '', given_by text NOT NULL, given_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz, revoked_by text)""",
    "CREATE INDEX grants_of_an_owner ON grants (scope, name) WHERE revoked_at IS NULL",
    """CREATE VIEW grants_in_force AS SELECT scope, name, slot, LEAST(sum(amount), 4e18)::bigint AS amount FROM grants
        WHERE revoked_at IS NULL AND starts_at <= now() AND now() < ends_at GROUP BY scope, name, slot""",
    """CREATE VIEW owners AS
        SELECT 'keypair' AS scope, access_key AS name, policy FROM keypairs
        UNION ALL SELECT 'user', email, policy FROM users
        UNION ALL SELECT 'project', domain || '/' || name, policy FROM projects
        UNION ALL SELECT 'domain', name, NULL FROM domains""",
    "CREATE INDEX limiting_policies ON policies (kind, name) WHERE max_sessions IS NOT NULL OR max_slots <> '{}'",
    "CREATE INDEX projects_by_path ON projects ((domain || '/' || name))",
    """CREATE FUNCTION with_grants(whose text, who text, base jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN base = '{}' THEN base ELSE
            (SELECT jsonb_object_agg(e.key, e.value::text::bigint + COALESCE(g.amount, 0)) FROM jsonb_each(base) e
               LEFT JOIN grants_in_force g ON g.scope = whose AND g.name = who AND g.slot = e.key) END $$""",
    # What holds for an owner now: its own row before its policy, field by field, and what was granted on top.
    """CREATE VIEW quotas AS
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
            COALESCE(l.weight, 1) AS weight
        FROM owners o LEFT JOIN policies p ON p.kind = o.scope AND p.name = o.policy
            LEFT JOIN limits l ON l.scope = o.scope AND l.name = o.name""",
    # Custom roles; the built-in ones are in moorage.domain.permissions. `scope_id`: a domain's name, else an id.
    """CREATE TABLE roles (
        name text PRIMARY KEY, description text NOT NULL DEFAULT '', permissions text[] NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now())""",
    """CREATE TABLE role_assignments (
        id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, role text NOT NULL,
        scope_kind text NOT NULL CHECK (scope_kind IN ('global', 'domain', 'project', 'user')),
        scope_id text NOT NULL DEFAULT '', granted_by text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz, UNIQUE (user_id, role, scope_kind, scope_id))""",
    # One row a log-in. Its refresh token is used once; the one before it still counts for some seconds.
    """CREATE TABLE logins (
        id uuid PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, refresh_hash bytea NOT NULL,
        previous_hash bytea, rotated_at timestamptz, created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL, revoked_at timestamptz, address text NOT NULL DEFAULT '',
        client text NOT NULL DEFAULT '', method text NOT NULL DEFAULT 'password')""",
    "CREATE INDEX logins_of_a_user ON logins (user_id, created_at DESC)",
    # Personal access tokens: only a hash is kept.
    """CREATE TABLE tokens (
        id text PRIMARY KEY, user_id uuid NOT NULL REFERENCES users, name text NOT NULL, hash bytea NOT NULL,
        permissions text[] NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), expires_at timestamptz NOT NULL,
        last_used_at timestamptz, revoked_at timestamptz)""",
    "CREATE UNIQUE INDEX one_token_of_a_name ON tokens (user_id, name) WHERE revoked_at IS NULL",
    # Signed requests that may come once only.
    """CREATE TABLE nonces (
        access_key text NOT NULL, nonce text NOT NULL, seen_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (access_key, nonce))""",
    "CREATE INDEX nonces_by_age ON nonces (seen_at)",
    """CREATE TABLE secrets (
        id uuid PRIMARY KEY, user_id uuid REFERENCES users, project_id uuid REFERENCES projects,
        name text NOT NULL, value bytea NOT NULL, created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(), modified_at timestamptz NOT NULL DEFAULT now(),
        CHECK (num_nonnulls(user_id, project_id) = 1),
        UNIQUE (user_id, name), UNIQUE (project_id, name))""",
    # `target` is a variable's name, or a path for `file`.
    """CREATE TABLE session_secrets (
        session_id uuid NOT NULL REFERENCES sessions, secret_id uuid NOT NULL REFERENCES secrets ON DELETE CASCADE,
        kind text NOT NULL CHECK (kind IN ('env', 'file')), target text NOT NULL,
        PRIMARY KEY (session_id, kind, target))""",
    "CREATE INDEX sessions_with_a_secret ON session_secrets (secret_id)",
    # An ended session never changes, but for the name of its deleted domain. It needs its environment no more, whoever
    # ended it; secrets that nobody needs are not kept.
    f"""CREATE OR REPLACE FUNCTION guard_session_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (OLD.{_LIVE}) THEN
            IF to_jsonb(NEW) - 'domain' <> to_jsonb(OLD) - 'domain' THEN
                RAISE EXCEPTION 'session % is % and never changes again', OLD.id, OLD.status;
            END IF;
        END IF;
        IF NOT (NEW.{_LIVE}) THEN NEW.env := NULL; END IF;
        RETURN NEW;
    END $$""",
    "ALTER TABLE sessions DISABLE TRIGGER guard_session_move",
    f"UPDATE sessions SET env = NULL WHERE env IS NOT NULL AND NOT ({_LIVE})",
    "ALTER TABLE sessions ENABLE TRIGGER guard_session_move",
    # Append-only, each row covers the one before it. `record` is canonical JSON and the truth; columns are for finding.
    """CREATE TABLE audit (
        seq bigint PRIMARY KEY, at timestamptz NOT NULL, actor text NOT NULL, acted_as text NOT NULL,
        address text NOT NULL, operation text NOT NULL, entity text NOT NULL, entity_id text NOT NULL,
        domain text NOT NULL, project_id text NOT NULL, user_id text NOT NULL, outcome text NOT NULL,
        request_id text NOT NULL, record text NOT NULL, previous bytea NOT NULL, hash bytea NOT NULL)""",
    "CREATE INDEX audit_by_time ON audit (at)",
    "CREATE INDEX audit_of_an_entity ON audit (entity, entity_id, seq)",
    "CREATE INDEX audit_of_a_domain ON audit (domain, seq)",
    "CREATE INDEX audit_of_a_project ON audit (project_id, seq)",
    "CREATE INDEX audit_of_a_user ON audit (user_id, seq)",
    # Until the commit a row has a negative number and no hash; nobody else sees it.
    "CREATE SEQUENCE audit_rows_to_come",
    """CREATE FUNCTION begin_audit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.seq := -nextval('audit_rows_to_come');
        NEW.previous := '\\x';
        NEW.hash := '\\x';
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER begin_audit BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION begin_audit()",
    # During the commit, one after the other: nobody can know the row before his otherwise.
    """CREATE FUNCTION chain_audit() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE last record;
    BEGIN
        PERFORM pg_advisory_xact_lock(7241002);
        SELECT seq, hash INTO last FROM audit WHERE seq > 0 ORDER BY seq DESC LIMIT 1;
        UPDATE audit SET seq = COALESCE(last.seq, 0) + 1, previous = COALESCE(last.hash, '\\x'),
            hash = sha256(COALESCE(last.hash, '\\x')
                || convert_to((COALESCE(last.seq, 0) + 1) || ' ' || record, 'UTF8'))
            WHERE seq = NEW.seq;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER chain_audit AFTER INSERT ON audit DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION chain_audit()""",
    """CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
        FOR EACH ROW WHEN (OLD.seq > 0) EXECUTE FUNCTION refuse_change()""",
    "CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    """CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()""",
    # Lists and counts of one tenant never look at the rows of another.
    "CREATE INDEX sessions_of_a_project ON sessions (project_id, created_at DESC)",
    "CREATE INDEX sessions_of_a_domain ON sessions (domain, created_at DESC)",
    f"CREATE INDEX live_sessions_of_a_user ON sessions (user_id, status) WHERE {_LIVE}",
    f"CREATE INDEX live_sessions_of_a_project ON sessions (project_id, status) WHERE {_LIVE}",
    f"CREATE INDEX live_sessions_of_a_domain ON sessions (domain, status) WHERE {_LIVE}",
    f"CREATE INDEX live_sessions_of_a_key ON sessions (access_key, status) WHERE {_LIVE}",
    "CREATE FUNCTION tell_identity() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_notify('moorage_identity', ''); RETURN NULL; END $$",
    *(
        f"CREATE TRIGGER tell_identity AFTER {moments} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION tell_identity()"
        for table, moments in _IDENTITY.items()
    ),
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
