-- Idempotency keys: who works under each, or what came of it. Only jobs that were given a key of
-- their caller's own have a row here.
CREATE TABLE background_job_idempotency (
    key         TEXT PRIMARY KEY,
    state       TEXT NOT NULL,
    owner       TEXT NOT NULL,
    fence       INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    max_crashes INTEGER NOT NULL,
    stolen      INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    data        BLOB
);
CREATE INDEX background_job_idempotency_expiry ON background_job_idempotency (expires_at);
