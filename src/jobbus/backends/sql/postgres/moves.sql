-- Jobs that leave for another store, and jobs that come from one.

-- edges_of: what these jobs wait for, or waited for
SELECT job_id::text, depends_on::text, on_failure, outcome FROM background_job_dependencies
WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY job_id, depends_on

-- whole: these jobs, with all that is known of them
SELECT %job_columns%, j.max_crashes
FROM background_jobs j LEFT JOIN background_job_workers w ON w.id = j.worker
WHERE j.id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY j.id

-- histories: what the jobs' own rows do not tell
SELECT h.job_id::text, h.event, h.at, h.from_state, h.to_state, h.attempt, w.name, h.started_at,
       h.reason, h.problem
FROM background_job_history h LEFT JOIN background_job_workers w ON w.id = h.worker
WHERE h.job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY h.seq

-- progress_of: every word of these jobs
SELECT job_id::text, percent, stage, message, at FROM background_job_progress
WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY seq

-- on_the_way: which of these jobs are in the journal, and not known to be elsewhere
SELECT job_id::text FROM background_job_moves
WHERE NOT arrived AND job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- note_departure: lines of the journal, in place of those about the same jobs that have arrived
INSERT INTO background_job_moves (job_id, target, record)
SELECT id, target, record FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS m(
    id uuid, target text, record text)
ON CONFLICT (job_id) DO UPDATE
SET target = excluded.target, at = excluded.at, record = excluded.record, arrived = false

-- lock_departures: one at a time takes jobs in
SELECT pg_advisory_xact_lock(hashtextextended('background_job_moves', 0))

-- departures: the journal, in the order of the jobs' ids
SELECT job_id::text, target, record, arrived FROM background_job_moves
WHERE (CAST(:after AS uuid) IS NULL OR job_id > CAST(:after AS uuid))
  AND (CAST(:ids AS jsonb) IS NULL
       OR job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb))))
ORDER BY job_id LIMIT :limit

-- note_arrival: the other store has these jobs
UPDATE background_job_moves SET arrived = true
WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- forget_departures: nobody needs these lines any more
DELETE FROM background_job_moves
WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- known_workers: who ran moved jobs, under numbers of our own; seen long enough ago to be no worker
INSERT INTO background_job_workers (name, host, space, pid, birth, started_at, seen_at)
SELECT value, '', '', 0, '', clock_timestamp() - interval '2 hours',
       clock_timestamp() - interval '2 hours'
FROM jsonb_array_elements_text(CAST(:names AS jsonb))
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING id, name

-- retell: the history of jobs from before they came
INSERT INTO background_job_history
    (job_id, at, event, from_state, to_state, attempt, worker, started_at, reason, problem)
SELECT job_id, at, event, from_state, to_state, attempt, worker, started_at, reason, problem
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS h(
    job_id uuid, at timestamptz, event text, from_state text, to_state text, attempt integer,
    worker integer, started_at timestamptz, reason text, problem text)

-- restore: the past of jobs that were enqueued just now
UPDATE background_jobs j
SET state = CASE WHEN m.ended THEN m.state
                 WHEN m.retrying AND j.state = 'scheduled' THEN 'retrying' ELSE j.state END,
    ready = j.ready AND NOT m.ended, timed = j.timed AND NOT m.ended,
    dead = CASE WHEN m.ended THEN m.dead ELSE j.dead END,
    finished_at = coalesce(m.finished_at, j.finished_at),
    deadline = CASE WHEN m.ended THEN NULL ELSE j.deadline END,
    initial_state = m.initial_state, failures = m.failures, crashes = m.crashes,
    snoozes = m.snoozes, generation = m.generation, worker = m.worker, created_at = m.created_at,
    run_at = m.run_at, started_at = m.started_at, expires_at = m.expires_at,
    unique_key = m.unique_key, group_name = m.group_name, progress = m.progress,
    problem = coalesce(m.problem, j.problem), cancel_requested = m.cancel_requested,
    result = coalesce(convert_to(m.result, 'UTF8'), decode(m.result_base64, 'base64'))
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS m(
    id uuid, ended boolean, state text, dead boolean, retrying boolean, initial_state text,
    failures integer, crashes integer, snoozes integer, generation integer, worker integer,
    created_at timestamptz, run_at timestamptz, started_at timestamptz, finished_at timestamptz,
    expires_at timestamptz, cancel_requested boolean, unique_key text, group_name text, progress text, problem text,
    result text, result_base64 text)
WHERE j.id = m.id

-- mark_waited_for: jobs for which others here wait already
UPDATE background_jobs j SET has_dependents = true
WHERE j.id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND EXISTS (SELECT FROM background_job_dependencies e
              WHERE e.depends_on = j.id AND NOT e.resolved)

-- restore_progress: words of jobs from before they came
INSERT INTO background_job_progress (job_id, at, percent, stage, message)
SELECT job_id, at, percent, stage, message FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS p(
    job_id uuid, at timestamptz, percent real, stage text, message text)
