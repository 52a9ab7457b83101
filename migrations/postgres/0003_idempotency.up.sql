-- Idempotency keys: who works under each, or what came of it. Only jobs that were given a key of
-- their caller's own have a row here.
CREATE TABLE background_job_idempotency (
    key         text PRIMARY KEY,
    state       text NOT NULL,
    owner       text NOT NULL,
    fence       bigint NOT NULL,
    crashes     integer NOT NULL,
    max_crashes integer NOT NULL,
    stolen      boolean NOT NULL,
    fingerprint text NOT NULL,
    job_id      text NOT NULL,
    lease_until timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    data        bytea
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX background_job_idempotency_expiry ON background_job_idempotency (expires_at);
