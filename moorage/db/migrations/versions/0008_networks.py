"""The networks of sessions: what each may reach, and one of its own for each gang."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_LIVE = "status NOT IN ('TERMINATED', 'CANCELLED', 'ERROR')"

STATEMENTS: list[str] = [
    # `ssh_key`: a gang's private key, sealed.
    """ALTER TABLE sessions
        ADD network text NOT NULL DEFAULT 'open' CHECK (network IN ('open', 'internal', 'none')),
        ADD ssh_key bytea""",
    # No two overlap, whatever the programs believe. Held by an attempt until no node may have it any more.
    """CREATE TABLE session_networks (
        session_id uuid NOT NULL REFERENCES sessions, attempt integer NOT NULL, subnet cidr NOT NULL,
        PRIMARY KEY (session_id, attempt),
        CONSTRAINT networks_of_their_own EXCLUDE USING gist (subnet inet_ops WITH &&))""",
    """ALTER TABLE agents
        ADD overlay_address text NOT NULL DEFAULT '',
        ADD warnings text[] NOT NULL DEFAULT '{}'""",
    f"""CREATE OR REPLACE FUNCTION guard_session_move() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT (OLD.{_LIVE}) THEN
            IF to_jsonb(NEW) - 'domain' <> to_jsonb(OLD) - 'domain' THEN
                RAISE EXCEPTION 'session % is % and never changes again', OLD.id, OLD.status;
            END IF;
        END IF;
        IF NOT (NEW.{_LIVE}) THEN NEW.env := NULL; NEW.ssh_key := NULL; END IF;
        RETURN NEW;
    END $$""",
]


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
