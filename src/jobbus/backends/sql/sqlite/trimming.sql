-- Ended jobs beyond the number, or the bytes, of which a queue keeps the newest.

-- job_size: a fragment, the bytes that are counted of a job
length(j.payload) + coalesce(length(j.result), 0) + coalesce(length(CAST(j.problem AS BLOB)), 0)
  + coalesce(length(CAST(j.headers AS BLOB)), 0) + coalesce(length(CAST(j.metadata AS BLOB)), 0)

-- some_jobs: how many jobs there are, counted no further than the cap
SELECT count(*) FROM (SELECT 1 FROM background_jobs LIMIT :cap) counted

-- some_dead: how many dead letters there are, counted no further than the cap
SELECT count(*) FROM (SELECT 1 FROM background_jobs WHERE dead = 1 LIMIT :cap) counted

-- surplus: the oldest of those beyond
SELECT id FROM (
    SELECT j.id, j.finished_at, row_number() OVER newest AS place,
           sum(%job_size%) OVER newest AS bytes
    FROM background_jobs j
    WHERE j.state IN (SELECT value FROM json_each(:states))
    WINDOW newest AS (PARTITION BY j.queue ORDER BY j.finished_at DESC, j.id DESC
                      ROWS UNBOUNDED PRECEDING)) ranked
WHERE place > :count OR bytes > :bytes
ORDER BY finished_at, id LIMIT :limit

-- surplus_dead: the oldest dead letters of those beyond, by the index of dead letters
SELECT id FROM (
    SELECT j.id, j.finished_at, row_number() OVER newest AS place,
           sum(%job_size%) OVER newest AS bytes
    FROM background_jobs j
    WHERE j.dead = 1 AND j.state IN (SELECT value FROM json_each(:states))
    WINDOW newest AS (PARTITION BY j.queue ORDER BY j.finished_at DESC, j.id DESC
                      ROWS UNBOUNDED PRECEDING)) ranked
WHERE place > :count OR bytes > :bytes
ORDER BY finished_at, id LIMIT :limit

-- deletable: of these jobs, those that are still in these states and that nobody waits for any more
SELECT j.id FROM background_jobs j
WHERE j.id IN (SELECT value FROM json_each(:ids))
  AND j.state IN (SELECT value FROM json_each(:states))
  AND NOT (j.has_dependents = 1 AND EXISTS (
        SELECT 1 FROM background_job_dependencies e WHERE e.depends_on = j.id AND e.resolved = 0))

-- tally: of a page of jobs in the order of their ids, how many ended in a span of time and what they
-- take, by queue and interval; how many have not ended, by queue; how long the page is, and its end
WITH page AS (
    SELECT j.id, j.queue, j.state, j.finished_at, %job_size% AS bytes
    FROM background_jobs j WHERE j.id > :after ORDER BY j.id LIMIT :limit)
SELECT queue, finished_at / :width_ms, count(*), sum(bytes), NULL
FROM page
WHERE finished_at >= :since AND finished_at < :until
  AND state IN (SELECT value FROM json_each(:states))
GROUP BY 1, 2
UNION ALL
SELECT queue, NULL, count(*), 0, NULL FROM page WHERE finished_at IS NULL GROUP BY queue
UNION ALL
SELECT '', NULL, count(*), 0, max(id) FROM page HAVING count(*) > 0

-- beyond: of a page of jobs in the order of their ids, those that ended before the moment of their
-- queue; how long the page is, and its end
WITH page AS (
    SELECT j.id, j.queue, j.state, j.finished_at
    FROM background_jobs j WHERE j.id > :after ORDER BY j.id LIMIT :limit)
SELECT p.id, NULL FROM page p
JOIN json_each(:cuts) c ON json_extract(c.value, '$.queue') = p.queue
WHERE p.finished_at < json_extract(c.value, '$.before_ms') AND p.state IN (SELECT value FROM json_each(:states))
UNION ALL
SELECT max(id), count(*) FROM page HAVING count(*) > 0
