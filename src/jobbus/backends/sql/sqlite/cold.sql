-- Everything that departs from the straight path: read the rows, decide in Python, move them, tell
-- the history. And what people ask. The transaction is the lock.

-- lock_jobs: these jobs as they stand
SELECT id, state, attempt, claim, worker, started_at, failures, crashes, snoozes, generation,
       max_crashes, suspect, cancel_requested, has_dependents, unique_key, job_type, queue,
       run_at > :now AS early
FROM background_jobs WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id

-- lock_free_jobs: the same, since no other transaction is writing
SELECT id, state, attempt, claim, worker, started_at, failures, crashes, snoozes, generation,
       max_crashes, suspect, cancel_requested, has_dependents, unique_key, job_type, queue,
       run_at > :now AS early
FROM background_jobs WHERE id IN (SELECT value FROM json_each(:ids)) ORDER BY id

-- move: put a job into its new state
UPDATE background_jobs
SET state = :state, ready = :ready, timed = :timed, dead = :dead,
    run_at = CASE WHEN :delay_ms IS NULL THEN run_at ELSE :now + :delay_ms END,
    failures = :failures, crashes = :crashes, snoozes = :snoozes,
    problem = coalesce(:problem, CASE WHEN :generation = generation THEN problem END),
    result = CASE WHEN :generation = generation THEN result END,
    finished_at = CASE WHEN :finished THEN :now END,
    unique_lock = CASE WHEN :finished THEN NULL ELSE job_type || '/' || unique_key END,
    deadline = CASE WHEN :finished OR :generation > 1 THEN NULL ELSE expires_at END,
    cancel_requested = cancel_requested AND :generation = generation,
    claim = CASE WHEN :keep_claim THEN claim END,
    suspect = 0, generation = :generation
WHERE id = :id

-- tell: append to the history
INSERT INTO background_job_history
    (job_id, at, event, from_state, to_state, attempt, worker, started_at, reason, problem)
VALUES (:job_id, :now, :event, :from_state, :to_state, :attempt, :worker, :started_at, :reason,
        :problem)

-- request_cancel: ask the workers of these running jobs to stop them
UPDATE background_jobs SET cancel_requested = 1
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'running'

-- holders: who holds these unique keys
SELECT unique_lock, id FROM background_jobs
WHERE unique_lock IN (SELECT value FROM json_each(:locks))

-- known: which of these jobs exist
SELECT id FROM background_jobs WHERE id IN (SELECT value FROM json_each(:ids))

-- mark_dependents: somebody waits for these jobs to end
UPDATE background_jobs SET has_dependents = 1
WHERE id IN (SELECT value FROM json_each(:ids)) AND has_dependents = 0

-- add_edges: a job, and what it waits for
INSERT INTO background_job_dependencies (job_id, depends_on, on_failure, resolved, outcome)
VALUES (:job_id, :depends_on, :on_failure, :outcome IS NOT NULL, :outcome)
ON CONFLICT DO NOTHING

-- waiting_for: jobs that wait for one of these
SELECT DISTINCT job_id FROM background_job_dependencies
WHERE depends_on IN (SELECT value FROM json_each(:ids)) AND resolved = 0
ORDER BY 1

-- resolve_edges: these jobs have ended; what did it mean to those who waited
UPDATE background_job_dependencies
SET resolved = 1,
    outcome = (SELECT state FROM background_jobs j WHERE j.id = background_job_dependencies.depends_on)
WHERE depends_on IN (SELECT value FROM json_each(:ids)) AND resolved = 0
  AND EXISTS (SELECT 1 FROM background_jobs j WHERE j.id = depends_on
              AND j.state IN ('completed', 'failed', 'cancelled', 'timed_out', 'expired'))
RETURNING job_id, depends_on, on_failure, outcome

-- still_waiting: which of these jobs have something left to wait for
SELECT j.value FROM json_each(:ids) AS j
WHERE EXISTS (SELECT 1 FROM background_job_dependencies e
              WHERE e.job_id = j.value AND e.resolved = 0)

-- unnoticed: ended jobs whose dependents were never told, because a process died in between
SELECT DISTINCT e.depends_on FROM background_job_dependencies e
JOIN background_jobs j ON j.id = e.depends_on
WHERE e.resolved = 0 AND j.state IN ('completed', 'failed', 'cancelled', 'timed_out', 'expired')
LIMIT 1000

-- take_group: make a group known, with this job as its last
INSERT INTO background_job_groups (queue, name, tail) VALUES (:queue, :name, :tail)
ON CONFLICT DO NOTHING
RETURNING tail

-- lock_group: the last job of a group
SELECT tail FROM background_job_groups WHERE queue = :queue AND name = :name

-- move_group: this job is now the group's last
UPDATE background_job_groups SET tail = :tail WHERE queue = :queue AND name = :name

-- look: what fell due, cheaply; each answer comes from the end of an index
SELECT EXISTS (SELECT 1 FROM background_jobs WHERE timed = 1 AND run_at <= :now),
       EXISTS (SELECT 1 FROM background_jobs WHERE deadline <= :now),
       EXISTS (SELECT 1 FROM background_job_claims WHERE lease_until < :now),
       (SELECT min(run_at) - :now FROM background_jobs WHERE timed = 1),
       coalesce((SELECT until > :now FROM background_job_watch), 0)

-- promote: due jobs become ready
UPDATE background_jobs SET timed = 0, ready = 1, state = 'queued'
WHERE id IN (SELECT id FROM background_jobs WHERE timed = 1 AND run_at <= :now
             ORDER BY run_at LIMIT 1000)
RETURNING queue

-- overdue: jobs whose start deadline has passed
SELECT id FROM background_jobs WHERE deadline <= :now LIMIT 1000

-- lapsed: leases that ran out, or whose worker is known to be dead
SELECT id, job_ids FROM background_job_claims
WHERE lease_until < :now - :expired_ms OR worker IN (SELECT value FROM json_each(:dead))
ORDER BY id LIMIT 50

-- claiming_workers: who holds leases, to tell the dead on this machine
SELECT DISTINCT w.id, w.host, w.space, w.pid, w.birth FROM background_job_workers w
JOIN background_job_claims c ON c.worker = w.id

-- register_worker: a new process that claims
INSERT INTO background_job_workers (name, host, space, pid, birth, started_at, seen_at)
VALUES (:name, :host, :space, :pid, :birth, :now, :now)
RETURNING id

-- seen: these workers live
UPDATE background_job_workers SET seen_at = :now
WHERE id = :worker OR id IN (SELECT worker FROM background_job_claims
                             WHERE id IN (SELECT value FROM json_each(:claims)))

-- workers: everybody seen in the last hour, or who still holds something
SELECT w.id, w.name, w.host, w.space, w.pid, w.birth, w.started_at, w.seen_at,
       (SELECT count(*) FROM background_job_claims c CROSS JOIN json_each(c.job_ids) u
        CROSS JOIN background_jobs j ON j.id = u.value AND j.claim = c.id AND j.state = 'running'
        WHERE c.worker = w.id),
       w.seen_at > :now - 90000
FROM background_job_workers w
WHERE w.seen_at > :now - 3600000
   OR EXISTS (SELECT 1 FROM background_job_claims c WHERE c.worker = w.id)
ORDER BY w.id

-- get: one job, whole
SELECT %job_columns% FROM background_jobs j LEFT JOIN background_job_workers w ON w.id = j.worker
WHERE j.id = :id

-- history: what the job's own row does not tell
SELECT h.event, h.at, h.from_state, h.to_state, h.attempt, w.name, h.started_at, h.reason, h.problem
FROM background_job_history h LEFT JOIN background_job_workers w ON w.id = h.worker
WHERE h.job_id = :id ORDER BY h.seq

-- progress: every word of it
SELECT percent, stage, message, at FROM background_job_progress WHERE job_id = :id ORDER BY seq

-- counts: jobs by queue and state
SELECT queue, state, count(*) FROM background_jobs
WHERE :queue IS NULL OR queue = :queue
GROUP BY queue, state

-- depth: six numbers from the ends of indexes; CROSS JOIN keeps the claims before the jobs
SELECT (SELECT count(*) FROM background_jobs WHERE ready = 1 AND queue = :queue),
       (SELECT count(*) FROM background_job_claims c CROSS JOIN json_each(c.job_ids) u
        CROSS JOIN background_jobs j ON j.id = u.value AND j.claim = c.id AND j.state = 'running'
        WHERE c.queue = :queue),
       (SELECT count(*) FROM background_jobs WHERE timed = 1 AND queue = :queue),
       (SELECT count(DISTINCT e.job_id) FROM background_job_dependencies e
        JOIN background_jobs j ON j.id = e.job_id
        WHERE e.resolved = 0 AND j.state = 'blocked' AND j.queue = :queue),
       (SELECT count(*) FROM background_jobs WHERE dead = 1 AND queue = :queue),
       (SELECT :now - min(run_at) FROM background_jobs WHERE ready = 1 AND queue = :queue)

-- queue_names: every queue that was paused, or that a job type names
SELECT name, paused, reason FROM background_job_queues
UNION ALL
SELECT DISTINCT t.queue, 0, '' FROM background_job_types t
WHERE t.queue NOT IN (SELECT name FROM background_job_queues)

-- pause: hand nothing of this queue out
INSERT INTO background_job_queues (name, paused, reason) VALUES (:queue, 1, :reason)
ON CONFLICT (name) DO UPDATE SET paused = 1, reason = excluded.reason

-- resume: hand it out again
UPDATE background_job_queues SET paused = 0, reason = '' WHERE name = :queue

-- unstarted: some jobs of a queue that no worker has begun
SELECT id FROM background_jobs
WHERE queue = :queue AND (ready = 1 OR timed = 1 OR state IN ('blocked', 'created', 'queued'))
LIMIT 5000

-- delete: jobs
DELETE FROM background_jobs WHERE id IN (SELECT value FROM json_each(:ids)) RETURNING id

-- delete_history: and all their traces
DELETE FROM background_job_history WHERE job_id IN (SELECT value FROM json_each(:ids))

-- delete_progress: and all their traces
DELETE FROM background_job_progress WHERE job_id IN (SELECT value FROM json_each(:ids))

-- delete_edges: and all their traces
DELETE FROM background_job_dependencies WHERE job_id IN (SELECT value FROM json_each(:ids))

-- delete_groups: and all their traces
DELETE FROM background_job_groups WHERE tail IN (SELECT value FROM json_each(:ids))

-- prunable: some jobs that ended in these states before a moment, but for those that others wait for still
SELECT j.id FROM background_jobs j
WHERE j.created_at < :before AND j.finished_at < :before
  AND j.state IN (SELECT value FROM json_each(:states))
  AND NOT (j.has_dependents = 1 AND EXISTS (
        SELECT 1 FROM background_job_dependencies e WHERE e.depends_on = j.id AND e.resolved = 0))
LIMIT :limit

-- announce: what the workers of this application run
INSERT INTO background_job_types (name, queue, max_attempts, max_crashes, priority, schema, seen_at)
VALUES (:name, :queue, :max_attempts, :max_crashes, :priority, :schema, :now)
ON CONFLICT (name) DO UPDATE
SET queue = excluded.queue, max_attempts = excluded.max_attempts, max_crashes = excluded.max_crashes,
    priority = excluded.priority, schema = excluded.schema, seen_at = excluded.seen_at

-- job_types: what has been announced
SELECT name, queue, max_attempts, max_crashes, priority, schema
FROM background_job_types ORDER BY name

-- watch: ask everybody to write the live log for a while
INSERT INTO background_job_watch (singleton, until) VALUES (1, :now + :lasting_ms)
ON CONFLICT (singleton) DO UPDATE SET until = max(until, excluded.until)

-- log: one row for a batch of events
INSERT INTO background_job_events (at, entries) VALUES (:now, :entries)

-- log_end: where the live log stands
SELECT coalesce(max(seq), 0) FROM background_job_events

-- read_log: entries behind a position
SELECT seq, at, entries FROM background_job_events WHERE seq > :after ORDER BY seq LIMIT 200

-- trim_log: the live log is no archive
DELETE FROM background_job_events WHERE at < :now - 3600000

-- forget_workers: processes that nobody has seen for longer than any history is kept
DELETE FROM background_job_workers
WHERE seen_at < :now - 7776000000
  AND id NOT IN (SELECT worker FROM background_job_claims)

-- job_columns: a fragment, the columns of a whole job
j.id, j.job_type, j.queue, j.state, j.priority, j.payload, j.attempt, j.failures, j.crashes,
j.snoozes, j.max_attempts, j.generation, j.created_at, j.run_at, j.started_at, j.finished_at,
j.expires_at, j.timeout_ms, w.name, j.progress, j.result, j.problem, j.cancel_requested,
j.parent_id, j.unique_key, j.group_name, j.tags, j.headers, j.metadata, j.initial_state
