-- The queue and the ledger are one table. Three flags carry the hot indexes (ready, timed, dead), so
-- that completing a job touches no indexed column: the update can stay on its page (HOT) wherever
-- that has room, and finished rows cost the claim nothing. fillfactor leaves some of that room.
CREATE TABLE background_jobs (
    id               uuid PRIMARY KEY,
    queue            text NOT NULL,
    job_type         text NOT NULL,
    state            text NOT NULL,
    initial_state    text NOT NULL,
    priority         smallint NOT NULL,
    ready            boolean NOT NULL DEFAULT false,
    timed            boolean NOT NULL DEFAULT false,
    dead             boolean NOT NULL DEFAULT false,
    has_dependents   boolean NOT NULL DEFAULT false,
    cancel_requested boolean NOT NULL DEFAULT false,
    suspect          boolean NOT NULL DEFAULT false,
    attempt          integer NOT NULL DEFAULT 0,
    failures         integer NOT NULL DEFAULT 0,
    crashes          integer NOT NULL DEFAULT 0,
    snoozes          integer NOT NULL DEFAULT 0,
    max_attempts     integer NOT NULL,
    max_crashes      integer NOT NULL,
    generation       integer NOT NULL DEFAULT 1,
    claim            bigint,
    worker           integer,
    timeout_ms       bigint,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    run_at           timestamptz NOT NULL,
    started_at       timestamptz,
    finished_at      timestamptz,
    expires_at       timestamptz,
    deadline         timestamptz,
    parent_id        uuid,
    unique_key       text,
    unique_lock      text,
    group_name       text,
    tags             text,
    headers          text,
    metadata         text,
    progress         text,
    problem          text,
    payload          bytea NOT NULL,
    result           bytea
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- No statistics of this flag: taken in a quiet hour they say that nothing is ready, and the next claim
-- would fetch and sort every ready row for the sake of a few. Without them it reads the index in order.
ALTER TABLE background_jobs ALTER COLUMN ready SET STATISTICS 0;

CREATE INDEX background_jobs_ready ON background_jobs (queue, priority DESC, run_at, id) WHERE ready;
CREATE INDEX background_jobs_timed ON background_jobs (run_at) WHERE timed;
CREATE INDEX background_jobs_dead ON background_jobs (queue, id) WHERE dead;
CREATE INDEX background_jobs_deadline ON background_jobs (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX background_jobs_parent ON background_jobs (parent_id, id) WHERE parent_id IS NOT NULL;
-- For retention: tiny, and no update touches it.
CREATE INDEX background_jobs_created ON background_jobs USING brin (created_at);
-- Cleared when the job ends, which is how the key becomes free again.
CREATE UNIQUE INDEX background_jobs_unique ON background_jobs (unique_lock) WHERE unique_lock IS NOT NULL;

-- One row for each batch handed out: leases are kept, extended and found here, so that a lease costs
-- the job's row no index entry.
CREATE TABLE background_job_claims (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    worker      integer NOT NULL,
    queue       text NOT NULL,
    lease_until timestamptz NOT NULL,
    job_ids     uuid[] NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0);

CREATE TABLE background_job_workers (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    host       text NOT NULL,
    space      text NOT NULL,
    pid        integer NOT NULL,
    birth      text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What departs from the straight path. The straight path itself is told by the job's own row.
CREATE TABLE background_job_history (
    seq        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id     uuid NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    event      text NOT NULL,
    from_state text,
    to_state   text NOT NULL,
    attempt    integer NOT NULL,
    worker     integer,
    started_at timestamptz,
    reason     text NOT NULL DEFAULT '',
    problem    text
);
CREATE INDEX background_job_history_job ON background_job_history (job_id, seq);

CREATE TABLE background_job_progress (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id  uuid NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    percent real NOT NULL,
    stage   text NOT NULL,
    message text NOT NULL
);
CREATE INDEX background_job_progress_job ON background_job_progress (job_id, seq);

CREATE TABLE background_job_dependencies (
    job_id     uuid NOT NULL,
    depends_on uuid NOT NULL,
    on_failure text NOT NULL,
    resolved   boolean NOT NULL DEFAULT false,
    outcome    text,
    PRIMARY KEY (job_id, depends_on)
);
CREATE INDEX background_job_dependencies_open ON background_job_dependencies (depends_on) WHERE NOT resolved;
CREATE INDEX background_job_dependencies_waiting ON background_job_dependencies (job_id) WHERE NOT resolved;

-- The last job of each ordered group; the row is the group's lock.
CREATE TABLE background_job_groups (
    queue text NOT NULL,
    name  text NOT NULL,
    tail  uuid NOT NULL,
    PRIMARY KEY (queue, name)
);

CREATE TABLE background_job_queues (
    name   text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false,
    reason text NOT NULL DEFAULT ''
);

CREATE TABLE background_job_types (
    name         text PRIMARY KEY,
    queue        text NOT NULL,
    max_attempts integer NOT NULL,
    max_crashes  integer NOT NULL,
    priority     smallint NOT NULL,
    schema       text NOT NULL,
    seen_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The live event log, written only while somebody watches.
CREATE TABLE background_job_events (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    entries text NOT NULL
);
CREATE TABLE background_job_watch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    until     timestamptz NOT NULL
);

-- For operators with nothing but a SQL prompt: hands back running jobs whose lease ran out more than
-- so many minutes ago. Workers do the same by themselves, at once; a live lease is never touched.
CREATE FUNCTION recover_stuck_background_jobs(minutes integer DEFAULT 60)
RETURNS TABLE (job_id uuid, recovered_to text)
LANGUAGE plpgsql AS $$
BEGIN
    IF minutes IS NULL OR minutes < 0 THEN
        RAISE EXCEPTION 'minutes must be 0 or more, not %', minutes;
    END IF;
    RETURN QUERY
    WITH lapsed AS (
        DELETE FROM background_job_claims c
        WHERE c.id IN (
            SELECT l.id FROM background_job_claims l
            WHERE l.lease_until < clock_timestamp() - make_interval(mins => minutes)
            FOR UPDATE SKIP LOCKED)
        RETURNING c.id, c.job_ids
    ), held AS (
        SELECT j.id, n.crashes,
               CASE WHEN j.cancel_requested THEN 'cancelled'
                    WHEN n.crashes >= j.max_crashes THEN 'failed'
                    ELSE 'queued' END AS state
        FROM lapsed
        CROSS JOIN LATERAL unnest(lapsed.job_ids) AS u(id)
        JOIN background_jobs j ON j.id = u.id AND j.claim = lapsed.id AND j.state = 'running'
        CROSS JOIN LATERAL (
            SELECT j.crashes + (NOT j.cancel_requested AND (j.suspect OR j.crashes = 0))::integer
                   AS crashes) AS n
        FOR UPDATE OF j
    ), back AS (
        UPDATE background_jobs j
        SET crashes = held.crashes,
            state = held.state,
            ready = held.state = 'queued',
            dead = held.state = 'failed',
            suspect = false,
            claim = NULL,
            run_at = CASE WHEN held.state = 'queued' THEN clock_timestamp() ELSE j.run_at END,
            finished_at = CASE WHEN held.state <> 'queued' THEN clock_timestamp() END,
            deadline = CASE WHEN held.state = 'queued' THEN j.expires_at END,
            unique_lock = CASE WHEN held.state = 'queued' THEN j.unique_lock END,
            problem = CASE WHEN held.state = 'failed'
                THEN '{"kind":"poison_crash","message":"its worker died under it too often"}'
                ELSE j.problem END
        FROM held
        WHERE j.id = held.id
        RETURNING j.id, j.state, j.attempt, j.worker, j.started_at
    ), told AS (
        INSERT INTO background_job_history
            (job_id, event, from_state, to_state, attempt, worker, started_at, reason)
        SELECT back.id,
               CASE back.state WHEN 'queued' THEN 'crashed' ELSE back.state END,
               'running', back.state, back.attempt, back.worker, back.started_at,
               'the lease ran out; recovered by recover_stuck_background_jobs'
        FROM back
        RETURNING 1
    )
    SELECT back.id, back.state FROM back;
END;
$$;
