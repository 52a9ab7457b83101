-- Jobs that travel through a broker: ready means "may be handed over"; queued without ready means
-- "handed over", under a claim that lapses like any other, so that what a broker loses comes back.

-- waiting_queues: queues with something to hand over; one step along the index for each
WITH RECURSIVE waiting(name) AS (
    SELECT min(queue) FROM background_jobs WHERE ready
    UNION ALL
    SELECT (SELECT min(j.queue) FROM background_jobs j WHERE j.ready AND j.queue > w.name)
    FROM waiting w WHERE w.name IS NOT NULL
)
SELECT name FROM waiting WHERE name IS NOT NULL

-- paused: whether this queue hands out nothing
SELECT paused FROM background_job_queues WHERE name = :queue

-- outstanding: what was handed over under these claims and no worker has started
SELECT c.id, count(j.id)::integer FROM background_job_claims c
CROSS JOIN LATERAL unnest(c.job_ids) AS u(id)
LEFT JOIN background_jobs j ON j.id = u.id AND j.claim = c.id AND j.state = 'queued'
WHERE c.id IN (SELECT value::bigint FROM jsonb_array_elements_text(CAST(:claims AS jsonb)))
GROUP BY c.id

-- hand_over: the best ready jobs are the broker's, under one lease; rows that others hold are skipped
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
SET ready = false, state = 'queued', claim = claim.id
FROM claim
WHERE j.ctid = ANY (ARRAY(SELECT place FROM picked))
RETURNING j.id::text, j.claim, j.attempt, j.priority, j.run_at, j.job_type

-- put_back: these jobs never reached the broker, or got lost there: they may be handed over again
UPDATE background_jobs j
SET ready = true, claim = NULL,
    state = CASE WHEN j.initial_state = 'created' AND j.generation = 1 AND j.started_at IS NULL
                 THEN 'created' ELSE 'queued' END
FROM jsonb_to_recordset(CAST(:handed AS jsonb)) AS h(id uuid, claim bigint)
WHERE j.id = h.id AND j.claim = h.claim AND j.state = 'queued' AND NOT j.ready
RETURNING j.queue

-- start_handed: jobs whose messages came become this worker's, under one lease; no others do
WITH picked AS MATERIALIZED (
    SELECT j.id FROM background_jobs j
    JOIN jsonb_to_recordset(CAST(:batch AS jsonb)) AS t(id uuid, attempt integer)
      ON j.id = t.id AND j.attempt = t.attempt
    WHERE j.state IN ('created', 'queued')
      AND (j.deadline IS NULL OR j.deadline > clock_timestamp())
      AND NOT EXISTS (SELECT FROM background_job_queues q WHERE q.name = j.queue AND q.paused)
    ORDER BY j.id
    FOR UPDATE OF j
), claim AS (
    INSERT INTO background_job_claims (worker, queue, lease_until, job_ids)
    SELECT :worker, :queue, clock_timestamp() + :lease_ms * interval '1 millisecond', array_agg(id)
    FROM picked HAVING count(*) > 0
    RETURNING id
)
UPDATE background_jobs j
SET ready = false, state = 'running', attempt = j.attempt + 1, claim = claim.id,
    worker = :worker, started_at = clock_timestamp(), deadline = NULL
FROM picked, claim
WHERE j.id = picked.id AND j.state IN ('created', 'queued')
RETURNING j.id::text, j.attempt, j.claim, j.failures, j.crashes, j.priority, j.job_type, j.payload,
          j.headers, j.timeout_ms, j.max_attempts, j.max_crashes, j.expires_at, j.run_at,
          j.created_at, j.started_at, j.group_name, j.parent_id::text, j.unique_key, j.tags,
          j.metadata, j.has_dependents

-- handed_depth: how many jobs of a queue are with the broker, and for how long the oldest is due
SELECT count(*)::integer,
       extract(epoch FROM clock_timestamp() - min(j.run_at))::double precision * 1000
FROM background_job_claims c
CROSS JOIN LATERAL unnest(c.job_ids) AS u(id)
JOIN background_jobs j ON j.id = u.id AND j.claim = c.id AND j.state = 'queued' AND NOT j.ready
WHERE c.queue = :queue
