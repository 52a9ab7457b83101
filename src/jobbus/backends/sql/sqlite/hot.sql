-- The straight path of a job: in, out, done. Every statement runs inside one BEGIN IMMEDIATE; those
-- that take a batch are run once a row. ``:now`` is the host's clock in epoch milliseconds.

-- enqueue: add a job if it is new; a known id or a held unique key is skipped, not an error
INSERT INTO background_jobs (
    id, queue, job_type, state, initial_state, priority, ready, timed, attempt, max_attempts,
    max_crashes, timeout_ms, created_at, run_at, expires_at, deadline, parent_id, unique_key,
    unique_lock, group_name, tags, headers, metadata, payload)
SELECT :id, :queue, :job_type, s.state, s.state, :priority, s.state = :arrival,
       s.state = 'scheduled', :attempt, :max_attempts, :max_crashes, :timeout_ms, :now,
       max(:now + :delay_ms, coalesce(:run_at, 0)), :expires_at, :expires_at, :parent_id,
       :unique_key, :unique_lock, :group_name, :tags, :headers, :metadata, :payload
FROM (SELECT CASE WHEN :blocked THEN 'blocked'
                  WHEN :delay_ms > 0 OR coalesce(:run_at, 0) > :now THEN 'scheduled'
                  ELSE :arrival END AS state) AS s
WHERE true
ON CONFLICT DO NOTHING
RETURNING id

-- pick: the best ready jobs
SELECT id, attempt + 1, 0 AS claim, failures, crashes, priority, job_type, payload, headers,
       timeout_ms, max_attempts, max_crashes, expires_at, run_at, created_at, :now AS started_at,
       group_name, parent_id, unique_key, tags, metadata, has_dependents
FROM background_jobs
WHERE ready = 1 AND queue = :queue AND (deadline IS NULL OR deadline > :now)
  AND NOT EXISTS (SELECT 1 FROM background_job_queues q WHERE q.name = :queue AND q.paused)
ORDER BY priority DESC, run_at, id
LIMIT :limit

-- open_claim: one lease for the batch
INSERT INTO background_job_claims (worker, queue, lease_until, job_ids)
VALUES (:worker, :queue, :now + :lease_ms, :ids)
RETURNING id

-- start: the picked jobs are this worker's
UPDATE background_jobs
SET ready = 0, state = 'running', attempt = attempt + 1, claim = :claim, worker = :worker,
    started_at = :now, deadline = NULL
WHERE id = :id AND ready = 1

-- complete: only for who holds the lease
UPDATE background_jobs
SET state = 'completed', finished_at = :now, unique_lock = NULL, suspect = 0, result = :result
WHERE id = :id AND attempt = :attempt AND claim = :claim AND state = 'running'
RETURNING id, has_dependents

-- close_claims: drop leases under which nothing is left to do
DELETE FROM background_job_claims WHERE id IN (SELECT value FROM json_each(:closed))

-- extend: keep these leases for so long from now
UPDATE background_job_claims SET lease_until = max(lease_until, :now + :lease_ms)
WHERE id IN (SELECT value FROM json_each(:claims))
RETURNING id

-- held: which of these jobs are running, under which attempt and claim, and asked to stop or not
SELECT id, attempt, claim, cancel_requested FROM background_jobs
WHERE id IN (SELECT value FROM json_each(:ids)) AND state = 'running'

-- mark_suspect: this job, under whose hands a process died before, is about to run alone
UPDATE background_jobs SET suspect = 1
WHERE id = :id AND attempt = :attempt AND claim = :claim AND state = 'running'
RETURNING id

-- report_progress: the latest word of a running job
UPDATE background_jobs
SET progress = json_set(:note, '$.at',
                        strftime('%Y-%m-%dT%H:%M:%f+00:00', :now / 1000.0, 'unixepoch'))
WHERE id = :id AND attempt = :attempt AND claim = :claim AND state = 'running'
RETURNING id, attempt

-- keep_progress: every word of it
INSERT INTO background_job_progress (job_id, at, percent, stage, message)
VALUES (:id, :now, :percent, :stage, :message)

-- any_ready: whether a change of the file is worth a claim
SELECT 1 FROM background_jobs WHERE ready = 1 LIMIT 1
