-- Everything that departs from the straight path: lock the rows, decide in Python, move them, tell
-- the history. And what people ask.

-- lock_jobs: these jobs as they stand, kept from change until the transaction ends
SELECT id::text, state, attempt, claim, worker, started_at, failures, crashes, snoozes, generation,
       max_crashes, suspect, cancel_requested, has_dependents, unique_key, job_type, queue,
       run_at > clock_timestamp() AS early
FROM background_jobs
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY id
FOR UPDATE

-- lock_free_jobs: the same of those that no other transaction is changing
SELECT id::text, state, attempt, claim, worker, started_at, failures, crashes, snoozes, generation,
       max_crashes, suspect, cancel_requested, has_dependents, unique_key, job_type, queue,
       run_at > clock_timestamp() AS early
FROM background_jobs
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
ORDER BY id
FOR UPDATE SKIP LOCKED

-- move: put locked jobs into their new state
UPDATE background_jobs j
SET state = m.state, ready = m.ready, timed = m.timed, dead = m.dead,
    run_at = CASE WHEN m.delay_ms IS NULL THEN j.run_at
                  ELSE clock_timestamp() + m.delay_ms * interval '1 millisecond' END,
    failures = m.failures, crashes = m.crashes, snoozes = m.snoozes,
    problem = coalesce(m.problem, CASE WHEN m.generation = j.generation THEN j.problem END),
    result = CASE WHEN m.generation = j.generation THEN j.result END,
    finished_at = CASE WHEN m.finished THEN clock_timestamp() END,
    unique_lock = CASE WHEN m.finished THEN NULL ELSE j.job_type || '/' || j.unique_key END,
    deadline = CASE WHEN m.finished OR m.generation > 1 THEN NULL ELSE j.expires_at END,
    cancel_requested = j.cancel_requested AND m.generation = j.generation,
    claim = CASE WHEN m.keep_claim THEN j.claim END,
    suspect = false, generation = m.generation
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS m(
    id uuid, state text, ready boolean, timed boolean, dead boolean, delay_ms bigint,
    failures integer, crashes integer, snoozes integer, generation integer, problem text,
    finished boolean, keep_claim boolean)
WHERE j.id = m.id

-- tell: append to the history
INSERT INTO background_job_history
    (job_id, event, from_state, to_state, attempt, worker, started_at, reason, problem)
SELECT job_id, event, from_state, to_state, attempt, worker, started_at, reason, problem
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS h(
    job_id uuid, event text, from_state text, to_state text, attempt integer, worker integer,
    started_at timestamptz, reason text, problem text)

-- request_cancel: ask the workers of these running jobs to stop them
UPDATE background_jobs SET cancel_requested = true
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND state = 'running'

-- holders: who holds these unique keys
SELECT unique_lock, id::text FROM background_jobs
WHERE unique_lock IN (SELECT value FROM jsonb_array_elements_text(CAST(:locks AS jsonb)))

-- known: which of these jobs exist
SELECT id::text FROM background_jobs
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- mark_dependents: somebody waits for these jobs to end
UPDATE background_jobs SET has_dependents = true
WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND NOT has_dependents

-- add_edges: jobs, and what they wait for
INSERT INTO background_job_dependencies (job_id, depends_on, on_failure, resolved, outcome)
SELECT job_id, depends_on, on_failure, outcome IS NOT NULL, outcome
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS e(
    job_id uuid, depends_on uuid, on_failure text, outcome text)
ON CONFLICT DO NOTHING

-- waiting_for: jobs that wait for one of these, in the order in which to lock them
SELECT DISTINCT job_id::text FROM background_job_dependencies
WHERE depends_on IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND NOT resolved
ORDER BY 1

-- resolve_edges: these jobs have ended; what did it mean to those who waited
UPDATE background_job_dependencies e
SET resolved = true, outcome = j.state
FROM background_jobs j
WHERE e.depends_on IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND NOT e.resolved AND j.id = e.depends_on
  AND j.state IN ('completed', 'failed', 'cancelled', 'timed_out', 'expired')
RETURNING e.job_id::text, e.depends_on::text, e.on_failure, e.outcome

-- still_waiting: which of these jobs have something left to wait for
SELECT j.id::text FROM background_jobs j
WHERE j.id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND EXISTS (SELECT FROM background_job_dependencies e WHERE e.job_id = j.id AND NOT e.resolved)

-- unnoticed: ended jobs whose dependents were never told, because a process died in between
SELECT DISTINCT e.depends_on::text FROM background_job_dependencies e
JOIN background_jobs j ON j.id = e.depends_on
WHERE NOT e.resolved AND j.state IN ('completed', 'failed', 'cancelled', 'timed_out', 'expired')
LIMIT 1000

-- take_group: make a group known, with this job as its last
INSERT INTO background_job_groups (queue, name, tail)
VALUES (:queue, :name, CAST(:tail AS uuid))
ON CONFLICT DO NOTHING
RETURNING tail::text

-- lock_group: the last job of a group; whoever enqueues into it next waits here
SELECT tail::text FROM background_job_groups WHERE queue = :queue AND name = :name FOR UPDATE

-- move_group: this job is now the group's last
UPDATE background_job_groups SET tail = CAST(:tail AS uuid) WHERE queue = :queue AND name = :name

-- look: what fell due, cheaply; each answer comes from the end of an index
SELECT EXISTS (SELECT FROM background_jobs WHERE timed AND run_at <= clock_timestamp()),
       EXISTS (SELECT FROM background_jobs WHERE deadline <= clock_timestamp()),
       EXISTS (SELECT FROM background_job_claims WHERE lease_until < clock_timestamp()),
       (SELECT extract(epoch FROM min(run_at) - clock_timestamp())::double precision * 1000
        FROM background_jobs WHERE timed),
       coalesce((SELECT until > clock_timestamp() FROM background_job_watch), false)

-- promote: due jobs become ready
UPDATE background_jobs SET timed = false, ready = true, state = 'queued'
WHERE id IN (SELECT id FROM background_jobs WHERE timed AND run_at <= clock_timestamp()
             ORDER BY run_at LIMIT 1000 FOR UPDATE SKIP LOCKED)
RETURNING queue

-- overdue: jobs whose start deadline has passed
SELECT id::text FROM background_jobs WHERE deadline <= clock_timestamp()
LIMIT 1000 FOR UPDATE SKIP LOCKED

-- lapsed: leases that ran out, or whose worker is known to be dead; no one else looks at them meanwhile
SELECT id, array_to_json(job_ids)::text FROM background_job_claims
WHERE lease_until < clock_timestamp() - :expired_ms * interval '1 millisecond'
   OR worker IN (SELECT value::integer FROM jsonb_array_elements_text(CAST(:dead AS jsonb)))
ORDER BY id LIMIT 50 FOR UPDATE SKIP LOCKED

-- claiming_workers: who holds leases, to tell the dead on this machine
SELECT DISTINCT w.id, w.host, w.space, w.pid, w.birth FROM background_job_workers w
JOIN background_job_claims c ON c.worker = w.id

-- register_worker: a new process that claims
INSERT INTO background_job_workers (name, host, space, pid, birth)
VALUES (:name, :host, :space, :pid, :birth)
RETURNING id

-- seen: these workers live
UPDATE background_job_workers SET seen_at = clock_timestamp()
WHERE id = :worker
   OR id IN (SELECT worker FROM background_job_claims WHERE id IN (
        SELECT value::bigint FROM jsonb_array_elements_text(CAST(:claims AS jsonb))))

-- workers: everybody seen in the last hour, or who still holds something
SELECT w.id, w.name, w.host, w.space, w.pid, w.birth, w.started_at, w.seen_at,
       (SELECT count(*) FROM background_job_claims c
        JOIN LATERAL unnest(c.job_ids) AS u(id) ON true
        JOIN background_jobs j ON j.id = u.id AND j.claim = c.id AND j.state = 'running'
        WHERE c.worker = w.id)::integer,
       w.seen_at > clock_timestamp() - interval '90 seconds'
FROM background_job_workers w
WHERE w.seen_at > clock_timestamp() - interval '1 hour'
   OR EXISTS (SELECT FROM background_job_claims c WHERE c.worker = w.id)
ORDER BY w.id

-- get: one job, whole
SELECT %job_columns% FROM background_jobs j LEFT JOIN background_job_workers w ON w.id = j.worker
WHERE j.id = CAST(:id AS uuid)

-- history: what the job's own row does not tell
SELECT h.event, h.at, h.from_state, h.to_state, h.attempt, w.name, h.started_at, h.reason, h.problem
FROM background_job_history h LEFT JOIN background_job_workers w ON w.id = h.worker
WHERE h.job_id = CAST(:id AS uuid) ORDER BY h.seq

-- progress: every word of it
SELECT percent, stage, message, at FROM background_job_progress
WHERE job_id = CAST(:id AS uuid) ORDER BY seq

-- counts: jobs by queue and state
SELECT queue, state, count(*) FROM background_jobs
WHERE CAST(:queue AS text) IS NULL OR queue = CAST(:queue AS text)
GROUP BY queue, state

-- depth: six numbers from the ends of indexes
SELECT (SELECT count(*) FROM background_jobs WHERE ready AND queue = :queue),
       (SELECT count(*) FROM background_job_claims c
        JOIN LATERAL unnest(c.job_ids) AS u(id) ON true
        JOIN background_jobs j ON j.id = u.id AND j.claim = c.id AND j.state = 'running'
        WHERE c.queue = :queue),
       (SELECT count(*) FROM background_jobs WHERE timed AND queue = :queue),
       (SELECT count(DISTINCT e.job_id) FROM background_job_dependencies e
        JOIN background_jobs j ON j.id = e.job_id
        WHERE NOT e.resolved AND j.state = 'blocked' AND j.queue = :queue),
       (SELECT count(*) FROM background_jobs WHERE dead AND queue = :queue),
       (SELECT extract(epoch FROM clock_timestamp() - min(run_at))::double precision * 1000
        FROM background_jobs WHERE ready AND queue = :queue)

-- queue_names: every queue that was paused, or that a job type names
SELECT name, paused, reason FROM background_job_queues
UNION ALL
SELECT DISTINCT t.queue, false, '' FROM background_job_types t
WHERE t.queue NOT IN (SELECT name FROM background_job_queues)

-- pause: hand nothing of this queue out
INSERT INTO background_job_queues (name, paused, reason) VALUES (:queue, true, :reason)
ON CONFLICT (name) DO UPDATE SET paused = true, reason = excluded.reason

-- resume: hand it out again
UPDATE background_job_queues SET paused = false, reason = '' WHERE name = :queue

-- unstarted: some jobs of a queue that no worker has begun
SELECT id::text FROM background_jobs
WHERE queue = :queue AND (ready OR timed OR state IN ('blocked', 'created', 'queued'))
LIMIT 5000 FOR UPDATE SKIP LOCKED

-- delete: jobs
DELETE FROM background_jobs WHERE id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
RETURNING id::text

-- delete_history: and all their traces
DELETE FROM background_job_history WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- delete_progress: and all their traces
DELETE FROM background_job_progress WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- delete_edges: and all their traces
DELETE FROM background_job_dependencies WHERE job_id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- delete_groups: and all their traces
DELETE FROM background_job_groups WHERE tail IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))

-- prunable: some jobs that ended in these states before a moment, but for those that others wait for still
SELECT j.id::text FROM background_jobs j
WHERE j.created_at < CAST(:before AS timestamptz) AND j.finished_at < CAST(:before AS timestamptz)
  AND j.state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
  AND NOT (j.has_dependents AND EXISTS (
        SELECT FROM background_job_dependencies e WHERE e.depends_on = j.id AND NOT e.resolved))
LIMIT :limit FOR UPDATE SKIP LOCKED

-- announce: what the workers of this application run
INSERT INTO background_job_types (name, queue, max_attempts, max_crashes, priority, schema)
SELECT name, queue, max_attempts, max_crashes, priority, schema
FROM jsonb_to_recordset(CAST(:batch AS jsonb)) AS t(
    name text, queue text, max_attempts integer, max_crashes integer, priority smallint, schema text)
ORDER BY name
ON CONFLICT (name) DO UPDATE
SET queue = excluded.queue, max_attempts = excluded.max_attempts, max_crashes = excluded.max_crashes,
    priority = excluded.priority, schema = excluded.schema, seen_at = clock_timestamp()

-- job_types: what has been announced
SELECT name, queue, max_attempts, max_crashes, priority, schema
FROM background_job_types ORDER BY name

-- watch: ask everybody to write the live log for a while
INSERT INTO background_job_watch (singleton, until)
VALUES (true, clock_timestamp() + :lasting_ms * interval '1 millisecond')
ON CONFLICT (singleton) DO UPDATE SET until = greatest(background_job_watch.until, excluded.until)

-- log: one row for a batch of events
INSERT INTO background_job_events (entries) VALUES (:entries)

-- log_end: where the live log stands
SELECT coalesce(max(seq), 0) FROM background_job_events

-- read_log: entries behind a position, leaving out the very youngest: commits may overtake each other
SELECT seq, at, entries FROM background_job_events
WHERE seq > :after AND at < clock_timestamp() - interval '100 milliseconds'
ORDER BY seq LIMIT 200

-- trim_log: the live log is no archive
DELETE FROM background_job_events WHERE at < clock_timestamp() - interval '1 hour'

-- forget_workers: processes that nobody has seen for longer than any history is kept
DELETE FROM background_job_workers w
WHERE w.seen_at < clock_timestamp() - interval '90 days'
  AND NOT EXISTS (SELECT FROM background_job_claims c WHERE c.worker = w.id)

-- job_columns: a fragment, the columns of a whole job
j.id::text, j.job_type, j.queue, j.state, j.priority, j.payload, j.attempt, j.failures, j.crashes,
j.snoozes, j.max_attempts, j.generation, j.created_at, j.run_at, j.started_at, j.finished_at,
j.expires_at, j.timeout_ms, w.name, j.progress, j.result, j.problem, j.cancel_requested,
j.parent_id::text, j.unique_key, j.group_name, j.tags, j.headers, j.metadata, j.initial_state
