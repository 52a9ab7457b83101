-- Jobs that travel through a broker: ready means "may be handed over"; queued without ready means
-- "handed over", under a claim that lapses like any other, so that what a broker loses comes back.

-- waiting_queues: queues with something to hand over; one step along the index for each
WITH RECURSIVE waiting(name) AS (
    SELECT min(queue) FROM background_jobs WHERE ready = 1
    UNION ALL
    SELECT (SELECT min(j.queue) FROM background_jobs j WHERE j.ready = 1 AND j.queue > w.name)
    FROM waiting w WHERE w.name IS NOT NULL
)
SELECT name FROM waiting WHERE name IS NOT NULL

-- paused: whether this queue hands out nothing
SELECT paused FROM background_job_queues WHERE name = :queue

-- outstanding: what was handed over under these claims and no worker has started
SELECT c.id, count(j.id) FROM background_job_claims c
CROSS JOIN json_each(c.job_ids) u
LEFT JOIN background_jobs j ON j.id = u.value AND j.claim = c.id AND j.state = 'queued'
WHERE c.id IN (SELECT value FROM json_each(:claims))
GROUP BY c.id

-- pick_ready: the best ready jobs, as little of them as a broker needs
SELECT id, 0 AS claim, attempt, priority, run_at, job_type
FROM background_jobs
WHERE ready = 1 AND queue = :queue AND (deadline IS NULL OR deadline > :now)
  AND NOT EXISTS (SELECT 1 FROM background_job_queues q WHERE q.name = :queue AND q.paused)
ORDER BY priority DESC, run_at, id
LIMIT :limit

-- hand_over: the picked jobs are the broker's
UPDATE background_jobs SET ready = 0, state = 'queued', claim = :claim
WHERE id = :id AND ready = 1

-- put_back: these jobs never reached the broker, or got lost there: they may be handed over again
UPDATE background_jobs
SET ready = 1, claim = NULL,
    state = CASE WHEN initial_state = 'created' AND generation = 1 AND started_at IS NULL
                 THEN 'created' ELSE 'queued' END
WHERE state = 'queued' AND ready = 0
  AND (id, claim) IN (SELECT json_extract(value, '$.id'), json_extract(value, '$.claim')
                      FROM json_each(:handed))
RETURNING queue

-- pick_handed: jobs whose messages came, and that may start
SELECT j.id, j.attempt + 1, 0 AS claim, j.failures, j.crashes, j.priority, j.job_type, j.payload,
       j.headers, j.timeout_ms, j.max_attempts, j.max_crashes, j.expires_at, j.run_at,
       j.created_at, :now AS started_at, j.group_name, j.parent_id, j.unique_key, j.tags,
       j.metadata, j.has_dependents
FROM json_each(:tickets) t
CROSS JOIN background_jobs j ON j.id = json_extract(t.value, '$.id')
WHERE j.attempt = json_extract(t.value, '$.attempt') AND j.state IN ('created', 'queued')
  AND (j.deadline IS NULL OR j.deadline > :now)
  AND NOT EXISTS (SELECT 1 FROM background_job_queues q WHERE q.name = j.queue AND q.paused)

-- start_handed: the picked jobs are this worker's
UPDATE background_jobs
SET ready = 0, state = 'running', attempt = attempt + 1, claim = :claim, worker = :worker,
    started_at = :now, deadline = NULL
WHERE id = :id AND state IN ('created', 'queued')

-- handed_depth: how many jobs of a queue are with the broker, and for how long the oldest is due
SELECT count(*), :now - min(j.run_at)
FROM background_job_claims c CROSS JOIN json_each(c.job_ids) u
CROSS JOIN background_jobs j ON j.id = u.value AND j.claim = c.id AND j.state = 'queued' AND j.ready = 0
WHERE c.queue = :queue
