-- The straight path of a job: in, out, done. One statement each, for a whole batch. The batch
-- travels as one JSON document, which costs the client far less than arrays do.

-- enqueue: add the jobs that are new; a known id or a held unique key is skipped, not an error
INSERT INTO background_jobs (
    id, queue, job_type, state, initial_state, priority, ready, timed, attempt, max_attempts,
    max_crashes, timeout_ms, created_at, run_at, expires_at, deadline, parent_id, unique_key,
    unique_lock, group_name, tags, headers, metadata, payload)
SELECT m.id, m.queue, m.job_type, s.state, s.state, m.priority, s.state = CAST(:arrival AS text),
       s.state = 'scheduled', m.attempt, m.max_attempts, m.max_crashes, m.timeout_ms,
       statement_timestamp(), s.due, m.expires_at, m.expires_at, m.parent_id, m.unique_key,
       m.unique_lock, m.group_name, m.tags, m.headers, m.metadata,
       coalesce(convert_to(m.payload, 'UTF8'), decode(m.payload_base64, 'base64'))
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS m(
    id uuid, queue text, job_type text, priority smallint, attempt integer, max_attempts integer,
    max_crashes integer, timeout_ms bigint, delay_ms bigint, run_at timestamptz,
    expires_at timestamptz, blocked boolean, parent_id uuid, unique_key text, unique_lock text,
    group_name text, tags text, headers text, metadata text, payload text, payload_base64 text)
CROSS JOIN LATERAL (
    SELECT greatest(statement_timestamp() + m.delay_ms * interval '1 millisecond', m.run_at) AS due,
           CASE WHEN m.blocked THEN 'blocked'
                WHEN m.delay_ms > 0 OR m.run_at > statement_timestamp() THEN 'scheduled'
                ELSE CAST(:arrival AS text) END AS state) AS s
ON CONFLICT DO NOTHING
RETURNING id::text

-- enqueue_one: the same for one job that is ready at once: no document to take apart
INSERT INTO background_jobs (
    id, queue, job_type, state, initial_state, priority, ready, attempt, max_attempts, max_crashes,
    timeout_ms, created_at, run_at, parent_id, unique_key, unique_lock, tags, headers, metadata,
    payload)
VALUES (CAST(:id AS uuid), :queue, :job_type, CAST(:arrival AS text), CAST(:arrival AS text),
        :priority, true, :attempt, :max_attempts, :max_crashes, :timeout_ms, statement_timestamp(),
        statement_timestamp(), CAST(:parent_id AS uuid), :unique_key, :unique_lock, :tags, :headers,
        :metadata, :payload)
ON CONFLICT DO NOTHING

-- claim: the best ready jobs become this worker's, under one lease; rows that others hold are skipped.
-- They are locked, so their places hold until the end of the statement, and need no second look-up.
WITH picked AS MATERIALIZED (
    SELECT j.id, j.ctid AS place FROM background_jobs j
    WHERE j.ready AND j.queue = :queue
      AND (j.deadline IS NULL OR j.deadline > clock_timestamp())
      AND NOT EXISTS (SELECT FROM background_job_queues q WHERE q.name = :queue AND q.paused)
    ORDER BY j.priority DESC, j.run_at, j.id
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
), claim AS (
    INSERT INTO background_job_claims (worker, queue, lease_until, job_ids)
    SELECT :worker, :queue, clock_timestamp() + :lease_ms * interval '1 millisecond', array_agg(id)
    FROM picked HAVING count(*) > 0
    RETURNING id
)
UPDATE background_jobs j
SET ready = false, state = 'running', attempt = j.attempt + 1, claim = claim.id,
    worker = :worker, started_at = clock_timestamp(), deadline = NULL
FROM claim
WHERE j.ctid = ANY (ARRAY(SELECT place FROM picked))
RETURNING j.id::text, j.attempt, j.claim, j.failures, j.crashes, j.priority, j.job_type, j.payload,
          j.headers, j.timeout_ms, j.max_attempts, j.max_crashes, j.expires_at, j.run_at,
          j.created_at, j.started_at, j.group_name, j.parent_id::text, j.unique_key, j.tags,
          j.metadata, j.has_dependents

-- complete: only for who holds the lease; touches no indexed column unless a unique key was held
WITH closed AS (
    DELETE FROM background_job_claims
    WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text(CAST(:closed AS jsonb)))
)
UPDATE background_jobs j
SET state = 'completed', finished_at = clock_timestamp(), unique_lock = NULL, suspect = false,
    result = coalesce(convert_to(d.result, 'UTF8'), decode(d.result_base64, 'base64'))
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS d(
    id uuid, attempt integer, claim bigint, result text, result_base64 text)
WHERE j.id = d.id AND j.attempt = d.attempt AND j.claim = d.claim AND j.state = 'running'
RETURNING j.id::text, j.has_dependents

-- close_claims: drop leases under which nothing is left to do
DELETE FROM background_job_claims
WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text(CAST(:closed AS jsonb)))

-- extend: keep these leases for so long from now
UPDATE background_job_claims
SET lease_until = greatest(lease_until, clock_timestamp() + :lease_ms * interval '1 millisecond')
WHERE id IN (SELECT value::bigint FROM jsonb_array_elements_text(CAST(:claims AS jsonb)))
RETURNING id

-- held: which of these jobs are running, under which attempt and claim, and asked to stop or not
SELECT id::text, attempt, claim, cancel_requested FROM background_jobs
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND state = 'running'

-- mark_suspect: this job, under whose hands a process died before, is about to run alone
UPDATE background_jobs SET suspect = true
WHERE id = CAST(:id AS uuid) AND attempt = :attempt AND claim = :claim AND state = 'running'
RETURNING id::text

-- report_progress: the latest word of running jobs
UPDATE background_jobs j
SET progress = jsonb_set(CAST(p.note AS jsonb), '{at}', to_jsonb(clock_timestamp()))::text
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS p(
    id uuid, attempt integer, claim bigint, note text)
WHERE j.id = p.id AND j.attempt = p.attempt AND j.claim = p.claim AND j.state = 'running'
RETURNING j.id::text, j.attempt

-- keep_progress: every word of it
INSERT INTO background_job_progress (job_id, percent, stage, message)
SELECT id, percent, stage, message FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS p(
    id uuid, percent real, stage text, message text)
