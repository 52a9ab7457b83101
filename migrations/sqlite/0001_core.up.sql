-- The queue and the ledger are one table; times are epoch milliseconds, ids are UUIDs as text.
-- The flags carry the hot indexes, so that finished rows cost the claim nothing.
CREATE TABLE background_jobs (
    id               TEXT PRIMARY KEY,
    queue            TEXT NOT NULL,
    job_type         TEXT NOT NULL,
    state            TEXT NOT NULL,
    initial_state    TEXT NOT NULL,
    priority         INTEGER NOT NULL,
    ready            INTEGER NOT NULL DEFAULT 0,
    timed            INTEGER NOT NULL DEFAULT 0,
    dead             INTEGER NOT NULL DEFAULT 0,
    has_dependents   INTEGER NOT NULL DEFAULT 0,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    suspect          INTEGER NOT NULL DEFAULT 0,
    attempt          INTEGER NOT NULL DEFAULT 0,
    failures         INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    snoozes          INTEGER NOT NULL DEFAULT 0,
    max_attempts     INTEGER NOT NULL,
    max_crashes      INTEGER NOT NULL,
    generation       INTEGER NOT NULL DEFAULT 1,
    claim            INTEGER,
    worker           INTEGER,
    timeout_ms       INTEGER,
    created_at       INTEGER NOT NULL,
    run_at           INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    expires_at       INTEGER,
    deadline         INTEGER,
    parent_id        TEXT,
    unique_key       TEXT,
    unique_lock      TEXT,
    group_name       TEXT,
    tags             TEXT,
    headers          TEXT,
    metadata         TEXT,
    progress         TEXT,
    problem          TEXT,
    payload          BLOB NOT NULL,
    result           BLOB
);

CREATE INDEX background_jobs_ready ON background_jobs (queue, priority DESC, run_at, id) WHERE ready = 1;
CREATE INDEX background_jobs_timed ON background_jobs (run_at) WHERE timed = 1;
CREATE INDEX background_jobs_dead ON background_jobs (queue, id) WHERE dead = 1;
CREATE INDEX background_jobs_deadline ON background_jobs (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX background_jobs_parent ON background_jobs (parent_id, id) WHERE parent_id IS NOT NULL;
-- For retention; no update touches it.
CREATE INDEX background_jobs_created ON background_jobs (created_at);
-- Cleared when the job ends, which is how the key becomes free again.
CREATE UNIQUE INDEX background_jobs_unique ON background_jobs (unique_lock) WHERE unique_lock IS NOT NULL;

-- One row for each batch handed out: leases are kept, extended and found here.
CREATE TABLE background_job_claims (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    worker      INTEGER NOT NULL,
    queue       TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    job_ids     TEXT NOT NULL
);

CREATE TABLE background_job_workers (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name       TEXT NOT NULL UNIQUE,
    host       TEXT NOT NULL,
    space      TEXT NOT NULL,
    pid        INTEGER NOT NULL,
    birth      TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    seen_at    INTEGER NOT NULL
);

-- What departs from the straight path. The straight path itself is told by the job's own row.
CREATE TABLE background_job_history (
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id     TEXT NOT NULL,
    at         INTEGER NOT NULL,
    event      TEXT NOT NULL,
    from_state TEXT,
    to_state   TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    worker     INTEGER,
    started_at INTEGER,
    reason     TEXT NOT NULL DEFAULT '',
    problem    TEXT
);
CREATE INDEX background_job_history_job ON background_job_history (job_id, seq);

CREATE TABLE background_job_progress (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id  TEXT NOT NULL,
    at      INTEGER NOT NULL,
    percent REAL NOT NULL,
    stage   TEXT NOT NULL,
    message TEXT NOT NULL
);
CREATE INDEX background_job_progress_job ON background_job_progress (job_id, seq);

CREATE TABLE background_job_dependencies (
    job_id     TEXT NOT NULL,
    depends_on TEXT NOT NULL,
    on_failure TEXT NOT NULL,
    resolved   INTEGER NOT NULL DEFAULT 0,
    outcome    TEXT,
    PRIMARY KEY (job_id, depends_on)
) WITHOUT ROWID;
CREATE INDEX background_job_dependencies_open ON background_job_dependencies (depends_on) WHERE resolved = 0;
CREATE INDEX background_job_dependencies_waiting ON background_job_dependencies (job_id) WHERE resolved = 0;

-- The last job of each ordered group.
CREATE TABLE background_job_groups (
    queue TEXT NOT NULL,
    name  TEXT NOT NULL,
    tail  TEXT NOT NULL,
    PRIMARY KEY (queue, name)
) WITHOUT ROWID;

CREATE TABLE background_job_queues (
    name   TEXT PRIMARY KEY,
    paused INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;

CREATE TABLE background_job_types (
    name         TEXT PRIMARY KEY,
    queue        TEXT NOT NULL,
    max_attempts INTEGER NOT NULL,
    max_crashes  INTEGER NOT NULL,
    priority     INTEGER NOT NULL,
    schema       TEXT NOT NULL,
    seen_at      INTEGER NOT NULL
) WITHOUT ROWID;

-- The live event log, written only while somebody watches.
CREATE TABLE background_job_events (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    entries TEXT NOT NULL
);
CREATE TABLE background_job_watch (
    singleton INTEGER PRIMARY KEY CHECK (singleton = 1),
    until     INTEGER NOT NULL
);
