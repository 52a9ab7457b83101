-- Ended jobs beyond the number, or the bytes, of which a queue keeps the newest.

-- job_size: a fragment, the bytes that are counted of a job
octet_length(j.payload) + coalesce(octet_length(j.result), 0) + coalesce(octet_length(j.problem), 0)
  + coalesce(octet_length(j.headers), 0) + coalesce(octet_length(j.metadata), 0)

-- some_jobs: how many jobs there are, counted no further than the cap
SELECT count(*) FROM (SELECT FROM background_jobs LIMIT :cap) counted

-- some_dead: how many dead letters there are, counted no further than the cap
SELECT count(*) FROM (SELECT FROM background_jobs WHERE dead LIMIT :cap) counted

-- surplus: the oldest of those beyond
SELECT id::text FROM (
    SELECT j.id, j.finished_at, row_number() OVER newest AS place,
           sum(%job_size%) OVER newest AS bytes
    FROM background_jobs j
    WHERE j.state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
    WINDOW newest AS (PARTITION BY j.queue ORDER BY j.finished_at DESC, j.id DESC
                      ROWS UNBOUNDED PRECEDING)) ranked
WHERE place > :count OR bytes > :bytes
ORDER BY finished_at, id LIMIT :limit

-- surplus_dead: the oldest dead letters of those beyond, by the index of dead letters
SELECT id::text FROM (
    SELECT j.id, j.finished_at, row_number() OVER newest AS place,
           sum(%job_size%) OVER newest AS bytes
    FROM background_jobs j
    WHERE j.dead AND j.state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
    WINDOW newest AS (PARTITION BY j.queue ORDER BY j.finished_at DESC, j.id DESC
                      ROWS UNBOUNDED PRECEDING)) ranked
WHERE place > :count OR bytes > :bytes
ORDER BY finished_at, id LIMIT :limit

-- deletable: of these jobs, those that are still in these states and that nobody waits for any more
SELECT j.id::text FROM background_jobs j
WHERE j.id IN (SELECT value::uuid FROM jsonb_array_elements_text(CAST(:ids AS jsonb)))
  AND j.state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
  AND NOT (j.has_dependents AND EXISTS (
        SELECT FROM background_job_dependencies e WHERE e.depends_on = j.id AND NOT e.resolved))
FOR UPDATE SKIP LOCKED

-- tally: of a page of jobs in the order of their ids, how many ended in a span of time and what they
-- take, by queue and interval; how many have not ended, by queue; how long the page is, and its end
WITH page AS (
    SELECT j.id, j.queue, j.state, j.finished_at, %job_size% AS bytes
    FROM background_jobs j WHERE j.id > CAST(:after AS uuid) ORDER BY j.id LIMIT :limit)
SELECT queue, floor(date_part('epoch', finished_at) * 1000 / CAST(:width_ms AS double precision))::bigint,
       count(*), sum(bytes), NULL
FROM page
WHERE finished_at >= CAST(:since AS timestamptz) AND finished_at < CAST(:until AS timestamptz)
  AND state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
GROUP BY 1, 2
UNION ALL
SELECT queue, NULL, count(*), 0, NULL FROM page WHERE finished_at IS NULL GROUP BY queue
UNION ALL
(SELECT '', NULL, (SELECT count(*) FROM page), 0, id::text FROM page ORDER BY id DESC LIMIT 1)

-- beyond: of a page of jobs in the order of their ids, those that ended before the moment of their
-- queue; how long the page is, and its end
WITH page AS (
    SELECT j.id, j.queue, j.state, j.finished_at
    FROM background_jobs j WHERE j.id > CAST(:after AS uuid) ORDER BY j.id LIMIT :limit)
SELECT p.id::text, NULL FROM page p
JOIN jsonb_to_recordset(CAST(:cuts AS jsonb)) AS c(queue text, before_ms bigint) ON c.queue = p.queue
WHERE p.finished_at < to_timestamp(c.before_ms / 1000.0) AND p.state IN (SELECT value FROM jsonb_array_elements_text(CAST(:states AS jsonb)))
UNION ALL
(SELECT id::text, (SELECT count(*) FROM page) FROM page ORDER BY id DESC LIMIT 1)
