-- Jobs that leave for another store, and jobs that come from one.

-- edges_of: what these jobs wait for, or waited for
SELECT job_id, depends_on, on_failure, outcome FROM background_job_dependencies
WHERE job_id IN (SELECT value FROM json_each(:ids)) ORDER BY job_id, depends_on

-- whole: these jobs, with all that is known of them
SELECT %job_columns%, j.max_crashes
FROM background_jobs j LEFT JOIN background_job_workers w ON w.id = j.worker
WHERE j.id IN (SELECT value FROM json_each(:ids)) ORDER BY j.id

-- histories: what the jobs' own rows do not tell
SELECT h.job_id, h.event, h.at, h.from_state, h.to_state, h.attempt, w.name, h.started_at, h.reason,
       h.problem
FROM background_job_history h LEFT JOIN background_job_workers w ON w.id = h.worker
WHERE h.job_id IN (SELECT value FROM json_each(:ids)) ORDER BY h.seq

-- progress_of: every word of these jobs
SELECT job_id, percent, stage, message, at FROM background_job_progress
WHERE job_id IN (SELECT value FROM json_each(:ids)) ORDER BY seq

-- on_the_way: which of these jobs are in the journal, and not known to be elsewhere
SELECT job_id FROM background_job_moves
WHERE arrived = 0 AND job_id IN (SELECT value FROM json_each(:ids))

-- note_departure: a line of the journal, in place of one about the same job that has arrived
INSERT INTO background_job_moves (job_id, target, at, record) VALUES (:id, :target, :now, :record)
ON CONFLICT (job_id) DO UPDATE
SET target = excluded.target, at = excluded.at, record = excluded.record, arrived = 0

-- lock_departures: one at a time takes jobs in; here the transaction is the lock
SELECT 1

-- departures: the journal, in the order of the jobs' ids
SELECT job_id, target, record, arrived FROM background_job_moves
WHERE (:after IS NULL OR job_id > :after)
  AND (:ids IS NULL OR job_id IN (SELECT value FROM json_each(:ids)))
ORDER BY job_id LIMIT :limit

-- note_arrival: the other store has these jobs
UPDATE background_job_moves SET arrived = 1 WHERE job_id IN (SELECT value FROM json_each(:ids))

-- forget_departures: nobody needs these lines any more
DELETE FROM background_job_moves WHERE job_id IN (SELECT value FROM json_each(:ids))

-- known_workers: who ran moved jobs, under numbers of our own; seen long enough ago to be no worker
INSERT INTO background_job_workers (name, host, space, pid, birth, started_at, seen_at)
SELECT value, '', '', 0, '', :now - 7200000, :now - 7200000 FROM json_each(:names) WHERE true
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING id, name

-- retell: the history of a job from before it came
INSERT INTO background_job_history
    (job_id, at, event, from_state, to_state, attempt, worker, started_at, reason, problem)
VALUES (:job_id, :at, :event, :from_state, :to_state, :attempt, :worker, :started_at, :reason,
        :problem)

-- restore: the past of a job that was enqueued just now
UPDATE background_jobs
SET state = CASE WHEN :ended THEN :state
                 WHEN :retrying AND state = 'scheduled' THEN 'retrying' ELSE state END,
    ready = ready AND NOT :ended, timed = timed AND NOT :ended,
    dead = CASE WHEN :ended THEN :dead ELSE dead END,
    finished_at = coalesce(:finished_at, finished_at),
    deadline = CASE WHEN :ended THEN NULL ELSE deadline END,
    initial_state = :initial_state, failures = :failures, crashes = :crashes, snoozes = :snoozes,
    generation = :generation, worker = :worker, created_at = :created_at, run_at = :run_at,
    started_at = :started_at, expires_at = :expires_at, unique_key = :unique_key,
    group_name = :group_name, progress = :progress, problem = coalesce(:problem, problem),
    result = :result, cancel_requested = :cancel_requested
WHERE id = :id

-- mark_waited_for: jobs for which others here wait already
UPDATE background_jobs SET has_dependents = 1
WHERE id IN (SELECT value FROM json_each(:ids))
  AND EXISTS (SELECT 1 FROM background_job_dependencies e
              WHERE e.depends_on = background_jobs.id AND e.resolved = 0)

-- restore_progress: words of a job from before it came
INSERT INTO background_job_progress (job_id, at, percent, stage, message)
VALUES (:job_id, :at, :percent, :stage, :message)
